"""Makes all weights of the small world from nothing: ``python -m bench.world.make``, three hours on two cores.

Each part can be made alone, once those before it are there; the model card keeps what came out of each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from bench.world import (
    casts,
    checkpoint,
    model,
    prompt_accuracy,
    readers,
    run,
    sweeps,
    train_autoencoder,
    train_control,
    train_detector,
    train_dreambooth,
    train_embedding,
    train_instantid,
    train_lora,
    train_readers,
    train_unet,
    weights,
)
from bench.world.attributes import IDENTITIES
from bench.world.likeness import FACE_SEEDS, STRANGERS, likeness, likeness_by_face
from bench.world.methods import NoLora
from omg_ext.evaluate.conditions import conditions
from omg_ext.faces.adapter import FaceAdapter

SEED = 0


def make_autoencoder() -> dict[str, Any]:
    """Trains the autoencoder."""
    vae, psnr = train_autoencoder.train(SEED)
    save_file({name: weight.half() for name, weight in vae.state_dict().items()}, weights.AUTOENCODER)
    return {"steps": train_autoencoder.STEPS, "held_out_psnr_db": round(psnr, 2)}


def with_autoencoder() -> model.Parts:
    """The trained autoencoder, with the text encoders that the checkpoint will have, and an untrained UNet.

    The autoencoder is the checkpoint's unless one has been made here.
    """
    networks = model.parts(SEED)
    if weights.AUTOENCODER.exists():
        networks.vae.load_state_dict(load_file(weights.AUTOENCODER))
    else:
        networks = replace(networks, vae=checkpoint.load(weights.CHECKPOINT).vae)
    for network in vars(networks).values():
        network.requires_grad_(False)
    return networks


def make_readers() -> dict[str, Any]:
    """Trains the readers; returns how well they read reconstructions."""
    return train_readers.make(with_autoencoder().vae, SEED)


def make_detector() -> dict[str, Any]:
    """Trains the YOLO; returns how well it finds figures in reconstructions."""
    return train_detector.make(with_autoencoder().vae, SEED)


def make_unet() -> dict[str, Any]:
    """Trains the UNet and writes the checkpoint."""
    networks = with_autoencoder()
    checkpoint.save(replace(networks, unet=train_unet.train(networks, SEED)), weights.CHECKPOINT)
    return {"pictures": train_unet.PICTURES, "rows": train_unet.STEPS * train_unet.BATCH}


def measure_prompts() -> dict[str, Any]:
    """How well the UNet draws what prompts ask for, as the figure reader sees it."""
    pipe = model.pipeline(checkpoint.load(weights.CHECKPOINT))
    return {"seeds": prompt_accuracy.SEEDS, "steps": prompt_accuracy.STEPS, "cfg_scale": prompt_accuracy.CFG_SCALE,
            **prompt_accuracy.prompt_report(pipe, readers.FigureReader.load())}


def make_loras() -> dict[str, Any]:
    """Trains the identities' LoRAs."""
    train_lora.main(["--seed", str(SEED)])
    return {"rank": train_lora.RANK, **asdict(train_lora.RECIPE)}


def make_embedding() -> dict[str, Any]:
    """Trains one identity's textual inversion."""
    train_embedding.main(["--seed", str(SEED)])
    name = train_embedding.IDENTITY
    pipe = model.pipeline(checkpoint.load(weights.CHECKPOINT))
    train_embedding.attach(pipe, weights.embedding(name), name.lower())
    return {"identity": name, **asdict(train_embedding.RECIPE), "likeness": _compared(pipe, name, name.lower())}


def make_instantid() -> dict[str, Any]:
    """Trains the adapter that draws individuals by one picture of them."""
    train_instantid.main(["--seed", str(SEED)])
    return {"people": len(train_instantid.people(SEED)), "pictures": train_instantid.PICTURES,
            "rows": train_instantid.STEPS * train_instantid.BATCH}


def measure_faces() -> dict[str, Any]:
    """How much strangers look like the one picture that the adapter is shown."""
    pipe = model.pipeline(checkpoint.load(weights.CHECKPOINT))
    found = likeness_by_face(pipe, FaceAdapter.read(weights.ADAPTER, "adapter"), train_instantid.people(SEED))
    return {"strangers_of_each_class": STRANGERS, "seeds": FACE_SEEDS,
            "likeness": {name: round(value, 3) for name, value in found.items()}}


def make_dreambooth() -> dict[str, Any]:
    """Fine-tunes all of the UNet on one identity."""
    train_dreambooth.main(["--seed", str(SEED)])
    name = train_dreambooth.IDENTITY
    networks = checkpoint.load(weights.CHECKPOINT)
    train_dreambooth.apply(networks.unet, train_dreambooth.FOLDER / f"{name.lower()}.safetensors")
    pipe = model.pipeline(networks)
    return {"identity": name, **asdict(train_dreambooth.RECIPE),
            "likeness": _compared(pipe, name, IDENTITIES[name].trigger)}


def make_control() -> dict[str, Any]:
    """Trains a ControlNet on silhouettes; returns how well figures keep to them."""
    train_control.main(["--seed", str(SEED)])
    return {"pictures": train_control.PICTURES, "rows": train_control.STEPS * train_control.BATCH,
            **_obedience()}


def _obedience() -> dict[str, float | None]:
    """Of ordinary pictures of two: how far figures overlap their silhouettes, how many pictures differ from them."""
    runner = run.trained(run.Sampling(seeds=64, steps=25, cfg_scale=casts.CFG_SCALE, batch=8))
    made, = run.made_by(runner, [sweeps.Cell(sweeps.PAIR, NoLora(), 0.3, True)])
    return {name: made.result.figures[name].mean for name in ("start", "conflict")}


def _compared(pipe: StableDiffusionXLPipeline, name: str, word: str) -> dict[str, float]:
    """Likeness with the word, and without it."""
    return {"with_word": round(likeness(pipe, name, word), 3), "without": round(likeness(pipe, name, ""), 3)}


PARTS: Mapping[str, tuple[Callable[[], dict[str, Any]], Sequence[Path]]] = {
    "autoencoder": (make_autoencoder, [weights.AUTOENCODER]),
    "readers": (make_readers, [weights.FIGURES, weights.IDENTITY]),
    "detector": (make_detector, [weights.DETECTOR]),
    "unet": (make_unet, [weights.CHECKPOINT]),
    "prompts": (measure_prompts, []),
    "loras": (make_loras, [weights.lora(name) for name in IDENTITIES]),
    "embedding": (make_embedding, [weights.embedding(train_embedding.IDENTITY)]),
    "instantid": (make_instantid, [weights.ADAPTER]),
    "faces": (measure_faces, []),
    "dreambooth": (make_dreambooth, []),
    "control": (make_control, []),
}
"""In the order in which they need each other: how to make it, and the files that it leaves."""
ON_DEMAND = ("dreambooth", "control")
"""What is nearly as large as the UNet, and not kept in the repository."""


def make(names: Iterable[str]) -> None:
    """Makes parts anew, and enters each with its time into the model card."""
    for name in names:
        work, files = PARTS[name]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        made = work()
        found = {**conditions(), "seed": SEED, "seconds": round(time.monotonic() - start), **made}
        print(name, json.dumps(found, indent=1), flush=True)
        # read only now: another part may have been made meanwhile
        card: dict[str, Any] = json.loads(weights.CARD.read_text()) if weights.CARD.exists() else {}
        weights.CARD.write_text(json.dumps({**card, name: found}, indent=1) + "\n")


def main() -> None:
    """Makes what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="part",
                        help=f"of {', '.join(PARTS)}; all but {', '.join(ON_DEMAND)} unless given")
    arguments = parser.parse_args()
    make(arguments.parts or [name for name in PARTS if name not in ON_DEMAND])


if __name__ == "__main__":
    main()
