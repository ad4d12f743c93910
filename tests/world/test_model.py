"""The small SDXL: tokens, checkpoint layout, loss and training, on untrained weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.training_utils import compute_snr
from safetensors.torch import load_file, save_file

from bench.world import VOCABULARY, checkpoint, diffusion, model, pixels, train_autoencoder, train_unet
from bench.world.parallel import Workers, in_processes
from bench.world.tokens import tokenizer
from tests.models.sgm_config import VOCABULARY as CLIP_WORDS

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def networks() -> model.Parts:
    return model.parts(seed=3)


def test_the_words_of_captions_have_clips_ids():
    """Some of CLIP's own: they can be looked up in any of its tokenizers."""
    known = {"a": 320, "man": 786, "woman": 2308, "dog": 1929, "robot": 8797, "and": 537, "in": 530, "the": 518,
             "park": 1452, ",": 267, "sks": 48136, "night": 930}
    for word, number in known.items():
        assert tokenizer()(word).input_ids == [CLIP_WORDS - 2, number, CLIP_WORDS - 1]


@pytest.mark.parametrize("word", VOCABULARY)
def test_each_word_of_captions_is_one_token(word):
    assert len(tokenizer()(word, add_special_tokens=False).input_ids) == 1


def test_other_words_fall_into_smaller_tokens():
    numbers = tokenizer()("a zebra, and naïve 東", add_special_tokens=False).input_ids
    assert len(numbers) > 10
    assert tokenizer().decode(numbers).replace(" ", "") == "azebra,andnaïve東"


def test_tokens_that_no_caption_has_are_zero(networks):
    for encoder in (networks.text_encoder, networks.text_encoder_2):
        table = encoder.get_input_embeddings().weight
        assert int((table.abs().sum(dim=1) > 0).sum()) == len(VOCABULARY) + 3  # start, end, and the second's padding


def test_captions_are_encoded_as_the_pipeline_does(networks):
    caption = "a sks man and two dogs in the park"
    context, pooled = model.encode_captions(networks, [caption, "a dog"])
    own = model.pipeline(networks).encode_prompt(caption, device="cpu", do_classifier_free_guidance=False)
    torch.testing.assert_close(context[:1], own[0])
    torch.testing.assert_close(pooled[:1], own[2])
    assert context.shape == (2, 77, model.CONTEXT)


def test_a_checkpoint_comes_back_as_it_was(networks, tmp_path):
    """Writing is our own inverse of diffusers' reading: each weight finds its place, in half precision."""
    path = tmp_path / "world.safetensors"
    checkpoint.save(networks, path)
    back = checkpoint.load(path)
    for name, network in vars(networks).items():
        mine, read = network.state_dict(), vars(back)[name].state_dict()
        assert mine.keys() == read.keys()
        for key, weight in mine.items():
            torch.testing.assert_close(read[key], weight.half().to(read[key].dtype))
    assert all(value.dtype == torch.float16 for value in load_file(path).values())


def test_a_checkpoint_lacks_nothing_that_a_web_ui_asks_for(networks):
    names = checkpoint.to_sgm(networks)
    weights = sum(len(network.state_dict()) for network in vars(networks).values())
    # three projections of each of three layers are one matrix and one bias there; the logit scale is unused
    assert len(names) == weights - 2 * 2 * model.TEXT_LAYERS + 1
    for name in ("model.diffusion_model.input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight",
                 "model.diffusion_model.output_blocks.1.2.conv.weight", "model.diffusion_model.label_emb.0.2.bias",
                 "first_stage_model.decoder.up.3.upsample.conv.weight", "first_stage_model.encoder.mid.attn_1.q.weight",
                 "conditioner.embedders.0.transformer.text_model.encoder.layers.2.mlp.fc1.weight",
                 "conditioner.embedders.1.model.transformer.resblocks.2.attn.in_proj_weight",
                 "conditioner.embedders.1.model.text_projection"):
        assert name in names


def test_a_broken_checkpoint_is_refused(networks, tmp_path):
    path = tmp_path / "world.safetensors"
    checkpoint.save(networks, path)
    state = load_file(path)
    del state["model.diffusion_model.out.2.weight"]
    save_file(state, path)
    with pytest.raises((RuntimeError, KeyError), match=r"conv_out|out\.2"):
        checkpoint.load(path)


class Recorder(torch.nn.Module):
    """A UNet that predicts zero and remembers what it was asked."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, **arguments: Any) -> Any:
        self.x, self.t, self.arguments = x, t, arguments
        return type("Output", (), {"sample": torch.zeros_like(x)})


def test_the_loss_is_min_snr_weighted(networks):
    """Against diffusers' own signal-to-noise ratio; with a prediction of zero the error is the noise itself."""
    captions = diffusion.encode(networks, ["a man at night"] * 6)
    latents, unet = torch.randn(6, 4, 16, 16), Recorder()
    torch.manual_seed(5)
    loss = diffusion.denoising_loss(unet, latents, captions)
    alphas = diffusion.alphas_cumprod()[unet.t][:, None, None, None]
    noise = (unet.x - alphas.sqrt() * latents) / (1 - alphas).sqrt()
    assert noise.std() == pytest.approx(1, abs=0.05)
    snr = compute_snr(model.schedule(), unet.t)
    weights = torch.stack([snr, torch.full_like(snr, 5.0)], dim=1).min(dim=1)[0] / snr
    assert loss.item() == pytest.approx((noise.pow(2).mean(dim=(1, 2, 3)) * weights).mean().item(), rel=1e-5)


def test_dropped_captions_are_zero(networks):
    captions = diffusion.encode(networks, ["a man at night"] * 400)
    dropped = captions.dropped(0.25)
    gone = dropped.context.abs().sum(dim=(1, 2)) == 0
    assert 60 < int(gone.sum()) < 140
    assert torch.equal(gone, dropped.pooled.abs().sum(dim=1) == 0)
    assert torch.equal(dropped.context[~gone], captions.context[~gone])


def test_standardised_latents_decode_to_the_same_pictures():
    torch.manual_seed(0)
    vae = model.autoencoder().eval().requires_grad_(False)
    images = train_autoencoder.pictures(range(4))
    before = train_autoencoder.reconstruct(vae, images)
    train_autoencoder.standardise(vae, images)
    found = vae.encode(images).latent_dist
    latents = found.mode() * model.LATENT_SCALE
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(train_autoencoder.reconstruct(vae, images), before, atol=1e-4, rtol=0)
    assert found.std.amin() == found.std.amin(dim=(0, 2, 3)).min()  # the same everywhere


@pytest.mark.parametrize(("rows", "workers", "sizes"), [(8, 2, [4, 4]), (9, 2, [9]), (9, 4, [3, 3, 3]), (1, 4, [1])])
def test_batches_are_parted_equally(rows, workers, sizes):
    with Workers(workers) as pool:
        parts = pool.parts(rows)
    assert [part.stop - part.start for part in parts] == sizes
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))


def test_gradients_of_parts_are_those_of_the_whole(networks):
    torch.manual_seed(2)
    unet = copy.deepcopy(networks.unet).train().requires_grad_(True)
    captions = diffusion.encode(networks, ["a man at night", "a dog and a robot in the park"] * 2)
    task = diffusion.Task.draw(torch.randn(4, 4, 16, 16), captions)
    whole = task.loss(unet)
    whole.backward()
    expected = [parameter.grad.clone() for parameter in unet.parameters()]
    threads = torch.get_num_threads()
    with Workers(2) as workers:
        found = workers.backward([partial(task[rows].loss, unet) for rows in workers.parts(4)], unet.parameters())
    assert torch.get_num_threads() == threads
    assert found == pytest.approx(whole.item(), rel=1e-5)
    for parameter, gradient in zip(unet.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)


def test_an_error_in_a_worker_is_raised():
    def broken() -> torch.Tensor:
        raise ZeroDivisionError

    with Workers(2) as workers, pytest.raises(ZeroDivisionError):
        workers.backward([broken, broken], [torch.nn.Parameter(torch.zeros(1))])


def one_over(number: int) -> tuple[float, int]:
    return 1 / number, torch.get_num_threads()


def test_processes_give_what_was_made_and_raise_errors():
    assert sorted(in_processes(one_over, [4, 2, 1], jobs=2)) == [(0.25, 1), (0.5, 1), (1.0, 1)]
    with pytest.raises(ZeroDivisionError):
        list(in_processes(one_over, [1, 0], jobs=1))


@pytest.mark.slow
def test_trainings_start_learning(monkeypatch):
    """A few steps of both, from the same seed twice: better than at first, and the same weights."""
    monkeypatch.setattr(train_autoencoder, "WARM_UP", 2)
    (vae, psnr), (again, _) = (train_autoencoder.train(seed=1, steps=16) for _ in range(2))
    untrained = train_autoencoder.psnr(model.autoencoder(), train_autoencoder.pictures(range(8)))
    assert psnr > untrained + 1
    assert all(torch.equal(mine, other) for mine, other in zip(vae.parameters(), again.parameters(), strict=True))
    networks = replace(model.parts(seed=1), vae=vae)
    first, second = (train_unet.train(networks, seed=1, pictures=32, steps=3) for _ in range(2))
    for mine, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, other)
        assert mine.grad_fn is None


def test_examples_keep_pictures_and_captions_together(networks):
    pictures = [train_unet.random_picture(seed) for seed in range(5)]
    examples = train_unet.prepare(networks, iter(pictures), batch=2)
    assert examples.latents.shape == (5, 4, model.LATENT, model.LATENT)
    expected = pixels.latents(networks.vae, np.stack([picture.image for picture in pictures]))
    torch.testing.assert_close(examples.latents.float(), expected, atol=2e-3, rtol=2e-3)
    context = diffusion.encode(networks, [picture.caption for picture in pictures]).context
    torch.testing.assert_close(examples.conditioning.context.float(), context, atol=2e-3, rtol=2e-3)
