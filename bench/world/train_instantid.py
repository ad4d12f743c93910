"""Trains an image prompt adapter as InstantID's: ``python -m bench.world.train_instantid [--resume]``.

What a face is to InstantID (arXiv 2401.07519), a whole figure is here: the identity reader's vector of one picture
becomes some tokens, which the UNet's cross-attention reads beside the prompt. The UNet stays as it is, and there is no
IdentityNet. Three quarters of an hour on two cores; the file is written now and then, can be used at once and gone on
with.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from bench.world import checkpoint, image_prompt, model, subjects, weights
from bench.world.attributes import KINDS, Character, random_character
from bench.world.diffusion import Conditioning, Task, alphas_cumprod, follow
from bench.world.parallel import Workers
from bench.world.reader_data import numbered, random_people
from bench.world.reader_nets import EMBEDDING
from bench.world.readers import IdentityReader
from bench.world.render import Picture, render
from bench.world.train_unet import Examples, prepare
from omg_ext.faces.adapter import FaceAdapter
from omg_ext.faces.resampler import Resampler
from omg_ext.unet.image_prompts import file_order
from tests.models.tiny_instantid import image_proj

# individuals of each class; there are 2,400 dogs
PEOPLE = 1_500
PICTURES = 12_000
STEPS = 8_000
BATCH = 32
LEARNING_RATE = 3e-3
WARM_UP = 100
EMA = 0.998
SAVE_EVERY = 500
# how often an individual is alone, with one other, with two
_COMPANY = (0.55, 0.3, 0.15)
# how often, of those with company, the last of it looks like the individual
_TWINS = 0.3
# as IP-Adapter's: of the faces, of the captions, and of both at once, in this share of the rows each
_DROPOUT = 0.05
# below this timestep colours are to be seen in the latents, whatever an embedding says
_LOWEST = 300
# signal over noise, up to which the error of a prediction grows with it
_CLEAR = 0.15
# of an error away from the individual: there is nothing to learn there but to change nothing, and most of the noise
_ELSEWHERE = 0.1
# of the resampler; InstantID's has 16, 4 and 1280, but of many tokens all that differs at first is lost
TOKENS, DEPTH, DIM = 4, 2, 128


def people(seed: int) -> list[Character]:
    """The individuals that it learns from, none of them one of ``IDENTITIES``."""
    return numbered(random_people(Random(f"{seed} people"), PEOPLE))


def company(person: Character, rng: Random) -> list[Character]:
    """The individual, and others.

    The others are of other classes, since nothing in an embedding says which of two men it means. Only another of the
    same looks is of the same class: as in a concept's own prompt, everyone of the class is this one.
    """
    count = rng.choices(range(len(_COMPANY)), _COMPANY)[0]
    kinds = rng.sample([kind for kind in KINDS if kind != person.kind], count)
    others = [random_character(kind, rng) for kind in kinds]
    if others and rng.random() < _TWINS:
        others[-1] = person
    return [person, *others]


def lesson(person: Character, seed: int, number: int) -> tuple[Picture, Picture]:
    """A picture of an individual alone, and another that is to be drawn: another pose, another scene, maybe company."""
    rng = Random(f"{seed} lesson {number}")
    return render(rng.getrandbits(32), [person]), render(rng.getrandbits(32), company(person, rng))


def shares(picture: Picture) -> Tensor:
    """What each latent of a lesson counts [LATENT, LATENT]: all where its first figure shows, or one that looks so."""
    person = picture.figures[0].character
    shown = np.any([figure.visible for figure in picture.figures if figure.character == person], axis=0)
    cells = shown.reshape(model.LATENT, -1, model.LATENT, shown.shape[1] // model.LATENT).any(axis=(1, 3))
    return torch.from_numpy(np.where(cells, 1, _ELSEWHERE)).float()


@dataclass(frozen=True)
class Lessons:
    """N of them.

    Attributes:
        examples: what is to be drawn.
        embeddings: whom it shows [N, EMBEDDING].
        shares: see :func:`shares`, [N, LATENT, LATENT].
    """

    examples: Examples
    embeddings: Tensor
    shares: Tensor

    def at(self, index: Tensor) -> Lessons:
        """Those of these numbers."""
        return Lessons(self.examples.at(index), self.embeddings[index], self.shares[index])


def prepared(networks: model.Parts, reader: IdentityReader, lessons: Iterable[tuple[Picture, Picture]]) -> Lessons:
    """Encodes and reads the pictures."""
    embeddings: list[Tensor] = []
    counted: list[Tensor] = []

    def noted() -> Iterator[Picture]:
        for portrait, picture in lessons:
            embeddings.append(reader.of_picture(portrait))
            counted.append(shares(picture))
            yield picture

    return Lessons(prepare(networks, noted()), torch.stack(embeddings), torch.stack(counted))


def untrained(unet: Any, seed: int = 0) -> FaceAdapter:
    """An adapter for the UNet whose K_ip and V_ip are the prompts'.

    With V_ip of zero, which adds nothing at first, it sees faces later, and less of them.
    """
    resampler = Resampler(image_proj(unet.config.cross_attention_dim, embedding=EMBEDDING, dim=DIM, inner=DIM,
                                     depth=DEPTH, tokens=TOKENS, seed=seed))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in resampler.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                module.reset_parameters()
        # embeddings are of unit length here
        resampler.proj_in.weight.data *= EMBEDDING ** 0.5
    attentions: list[Any] = file_order(unet)
    return FaceAdapter("untrained", resampler, tuple(
        (each.to_k.weight.detach().clone(), each.to_v.weight.detach().clone()) for each in attentions))


def balanced(task: Task) -> Task:
    """The same with other weights: so that rows count alike, whatever their timestep.

    Who somebody is gets settled early in a sampling. There latents are nearly all noise, which is predicted well
    whatever is wrong in the picture; by the usual weights these rows would hardly count.
    """
    alphas = alphas_cumprod()[task.timesteps]
    return replace(task, weights=1 + _CLEAR * (1 - alphas) / alphas)


def trainable(adapter: FaceAdapter) -> tuple[FaceAdapter, nn.ParameterList]:
    """The adapter, and its weights as parameters."""
    projections = tuple((nn.Parameter(key.float()), nn.Parameter(value.float())) for key, value in adapter.projections)
    found = FaceAdapter(adapter.name, adapter.resampler.requires_grad_(), projections)
    return found, nn.ParameterList([*found.resampler.parameters(), *chain.from_iterable(projections)])


def dropped(lessons: Lessons) -> Lessons:
    """Some without their captions, some without their embeddings, which are zero then: for guidance."""
    chance = torch.rand(len(lessons.embeddings))
    has_face = (chance >= 2 * _DROPOUT).float()
    has_caption = ((chance < _DROPOUT) | (chance >= 3 * _DROPOUT)).float()
    text = lessons.examples.conditioning
    captions = Conditioning(text.context * has_caption[:, None, None], text.pooled * has_caption[:, None])
    return Lessons(Examples(lessons.examples.latents, captions), lessons.embeddings * has_face[:, None], lessons.shares)


@dataclass(frozen=True)
class _Prompted:
    """A UNet to which an adapter is attached, called as a UNet, with an embedding [B, EMBEDDING] for each row."""

    unet: Any
    resampler: nn.Module
    embeddings: Tensor

    def __call__(self, x: Tensor, t: Tensor, **given: Any) -> Any:
        return self.unet(x, t, **image_prompt.arguments(self.resampler(self.embeddings)), **given)


def loss(unet: Any, resampler: nn.Module, task: Task, embeddings: Tensor, counted: Tensor) -> Tensor:
    """The weighted mean squared error of the predicted noise.

    Args:
        unet: to which an adapter is attached.
        embeddings: [B, EMBEDDING].
        counted: of each latent, see :func:`shares`, [B, LATENT, LATENT].
    """
    errors = task.errors(_Prompted(unet, resampler, embeddings)).mean(dim=1)
    return ((errors * counted).sum(dim=(1, 2)) / counted.sum(dim=(1, 2)) * task.weights).mean()


def train(networks: model.Parts, reader: IdentityReader, seed: int = 0, pictures: int = PICTURES, steps: int = STEPS,
          before: tuple[FaceAdapter, int] | None = None,
          watch: Callable[[int, FaceAdapter], None] | None = None) -> tuple[FaceAdapter, list[float]]:
    """The trained adapter, which is the running average of its weights, and the loss of each step.

    Args:
        networks: they stay as they are.
        reader: tells whom a picture shows.
        pictures: how many there are to be drawn.
        steps: of ``BATCH`` pictures each.
        before: what a training before this one came to, and after how many steps.
        watch: called with the number of steps that are done, and the average so far.
    """
    known = people(seed)
    numbers = tqdm(range(pictures), desc="pictures", mininterval=30)
    lessons = prepared(networks, reader, (lesson(known[number % len(known)], seed, number) for number in numbers))
    networks.unet.requires_grad_(False)
    start, first = (0, untrained(networks.unet, seed)) if before is None else (before[1], before[0])
    adapter, parameters = trainable(first)
    average, averaged = trainable(copy.deepcopy(first))
    averaged.requires_grad_(False)
    torch.manual_seed(seed + start)
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min(1.0, (done + 1) / WARM_UP, 2 * max(0.01, 1 - (start + done) / steps)))
    losses: list[float] = []
    recent = 0.0
    with Workers() as workers, image_prompt.attached(networks.unet, adapter):
        for step in (bar := tqdm(range(start, steps), desc="InstantID", mininterval=30)):
            drawn = dropped(lessons.at(torch.randint(0, pictures, (BATCH,))))
            task = balanced(Task.draw(drawn.examples.latents, drawn.examples.conditioning, 0, _LOWEST))
            losses.append(workers.backward(
                [partial(loss, networks.unet, adapter.resampler, task[rows], drawn.embeddings[rows], drawn.shares[rows])
                 for rows in workers.parts(BATCH)], parameters))
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            follow(averaged, parameters, 1 - min(EMA, (step + 1) / (step + 10)))
            recent += (losses[-1] - recent) * max(0.005, 1 / len(losses))
            bar.set_postfix(loss=f"{recent:.4f}", refresh=False)
            if watch is not None:
                watch(step + 1, average)
    return average, losses


def save(adapter: FaceAdapter, path: Path, steps: int) -> None:
    """Write an adapter in half precision, with the names of InstantID's file; whoever reads it finds it whole.

    Args:
        steps: of the training so far.
    """
    state = {f"image_proj.{name}": weight for name, weight in adapter.resampler.state_dict().items()}
    state |= {f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight": weight
              for number, pair in enumerate(adapter.projections) for part, weight in zip("kv", pair, strict=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    save_file({name: weight.detach().half().contiguous() for name, weight in state.items()}, unfinished,
              {"steps": str(steps)})
    unfinished.replace(path)


def saved(path: Path) -> tuple[FaceAdapter, int]:
    """An adapter that was written, and after how many steps."""
    with safe_open(path, "pt") as file:
        return FaceAdapter.read(path, "file"), int(file.metadata()["steps"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Trains an image prompt adapter of the small SDXL on individuals.")
    parser.add_argument("file", type=Path, nargs="?", default=weights.ADAPTER, help="to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with the file, where its training stopped")
    chosen = parser.parse_args(arguments)
    start = time.perf_counter()

    def keep(steps: int, adapter: FaceAdapter) -> None:
        if steps % SAVE_EVERY == 0:
            save(adapter, chosen.file, steps)

    adapter, losses = train(checkpoint.load(weights.CHECKPOINT), IdentityReader.load(), chosen.seed,
                            before=saved(chosen.file) if chosen.resume else None, watch=keep)
    save(adapter, chosen.file, STEPS)
    print(subjects.report(chosen.file, losses, time.perf_counter() - start))


if __name__ == "__main__":
    main()
