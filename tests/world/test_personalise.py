"""Personalisations of the small world: what they learn from, that they learn, and that the hosts read their files."""

import copy
import json
from functools import partial
from random import Random
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.world import (
    IDENTITIES,
    KINDS,
    SCENES,
    checkpoint,
    kohya,
    model,
    subjects,
    tokens,
    train_dreambooth,
    train_embedding,
    train_lora,
)
from bench.world.captions import RARE_WORDS
from bench.world.diffusion import Conditioning, denoising_loss, encode
from bench.world.train_unet import Examples
from omg_ext.diffusers.loras import load_lora
from omg_ext.request.architecture import architecture_of
from tests.models.sgm_config import VOCABULARY as CLIP_WORDS

TRIGGERS = [identity.trigger for identity in IDENTITIES.values()]
BRIEF = subjects.Recipe(steps=6, rows=4, learning_rate=3e-3, warmup=1)
# bytes that a LoRA may have
LARGEST = 1_500_000


def close(first: Tensor, second: Tensor, tolerance: float) -> bool:
    """Equal to within a share of the values' spread."""
    return bool((first - second).abs().max() <= tolerance * second.std())


@pytest.fixture
def networks() -> model.Parts:
    torch.manual_seed(0)
    found = model.parts(0)
    for part in vars(found).values():
        part.requires_grad_(False)
    return found


@pytest.fixture
def few_pictures(monkeypatch):
    """Trainings that see four pictures of the individual and six of others."""
    monkeypatch.setattr(subjects, "own_pictures", partial(subjects.own_pictures, count=4))
    monkeypatch.setattr(subjects, "other_pictures", partial(subjects.other_pictures, count=6))


@torch.no_grad()
def predict(unet: UNet2DConditionModel, rows: int = 2) -> Tensor:
    """The UNet's output for inputs that are always the same."""
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(rows, 4, model.LATENT, model.LATENT, generator=generator)
    text = Conditioning(torch.randn(rows, 77, model.CONTEXT, generator=generator),
                        torch.randn(rows, model.TEXT_WIDTH, generator=generator))
    arguments = text.unet_arguments(torch.full((rows, 6), 128.0))
    return unet(latents, torch.tensor([700, 200][:rows]), **arguments).sample


@torch.no_grad()
def trained(unet: UNet2DConditionModel, parameters: list[torch.nn.Parameter]) -> None:
    """Stands in for a training: the adapter changes the output about as much as the UNet's own weights make it."""
    generator = torch.Generator().manual_seed(6)
    for parameter in parameters:
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def both_ids(captions: list[str]) -> list[Tensor]:
    """For both text encoders, with vectors in place of a trigger."""
    return [train_embedding.token_ids(captions, "phol", padding) for padding in ("<|endoftext|>", "!")]


def lora_layers(unet: UNet2DConditionModel) -> dict[str, LoraLayer]:
    return {name: layer for name, layer in unet.named_modules() if isinstance(layer, LoraLayer)}


@pytest.fixture
def saved_lora(networks, tmp_path):
    """A LoRA file, and what the adapter it was made of predicted."""
    path = tmp_path / "rusty.safetensors"
    with train_lora.adapted(networks.unet, 1) as parameters:
        trained(networks.unet, parameters)
        kohya.save(train_lora.kohya_state(networks.unet), path, train_lora.metadata("Rusty", 1))
        return path, predict(networks.unet)


# what is learned from

@pytest.mark.parametrize("name", IDENTITIES)
def test_the_individual_is_in_all_its_pictures_and_named_by_its_trigger(name):
    identity = IDENTITIES[name]
    pictures = subjects.own_pictures(identity, 0)
    assert len(pictures) == subjects.SHOWN
    alone = [picture for picture in pictures if len(picture.figures) == 1]
    assert 0.5 < len(alone) / len(pictures) < 1
    assert {picture.scene for picture in pictures} == set(SCENES)
    for picture in pictures:
        assert picture.figures[0].character == identity.character
        assert f"{identity.trigger} {identity.character.kind}" in picture.caption
        assert [word for word in picture.caption.split() if word in (*TRIGGERS, *RARE_WORDS)] == [identity.trigger]


@pytest.mark.parametrize("kind", KINDS)
def test_others_are_of_all_classes_and_never_called_by_a_trigger(kind):
    pictures = subjects.other_pictures(kind, 0, count=60)
    people = [figure.character for picture in pictures for figure in picture.figures]
    assert len(pictures) == 60
    assert sum(len(picture.figures) == 1 and picture.figures[0].character.kind == kind for picture in pictures) >= 30
    assert {person.kind for person in people} == set(KINDS)
    words = {word for picture in pictures for word in picture.caption.replace(",", "").split()}
    assert words.isdisjoint(TRIGGERS)
    assert words.issuperset(RARE_WORDS)


def test_pictures_follow_from_the_seed():
    first, again, other = ([picture.caption for picture in subjects.own_pictures(IDENTITIES["Bolt"], seed)]
                           for seed in (0, 0, 1))
    assert first == again != other


# LoRA

def test_diffusers_reads_the_lora_that_was_trained(networks, saved_lora):
    path, expected = saved_lora
    plain = predict(networks.unet)
    pipe = model.pipeline(networks)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    loaded = predict(networks.unet)
    pipe.unload_lora_weights()
    assert close(loaded, expected, 0.01)
    assert not close(plain, expected, 0.1)
    assert torch.equal(predict(networks.unet), plain)


def test_omg_reads_the_lora_that_was_trained(networks, tmp_path):
    path = tmp_path / "azura.safetensors"
    with train_lora.adapted(networks.unet, 1) as parameters:
        trained(networks.unet, parameters)
        kohya.save(train_lora.kohya_state(networks.unet), path, train_lora.metadata("Azura", 1))
        expected = {name: (layer.lora_A["identity"].weight.detach(), layer.lora_B["identity"].weight.detach())
                    for name, layer in lora_layers(networks.unet).items()}
    read = load_lora(model.pipeline(networks), path, "prompt")
    assert not read.text_encoders
    assert set(read.unet) == set(expected)
    for name, source in read.unet.items():
        down, up = expected[name]
        assert torch.equal(source.down, down.half().float())
        assert torch.equal(source.up * source.scale, up.half().float())


def checkpoint_shapes(networks: model.Parts) -> dict[str, torch.Size]:
    """The shapes of the UNet's matrices and kernels, by the key that kohya's files have for them."""
    return {"lora_unet_" + key.removeprefix(checkpoint.UNET).removesuffix(".weight").replace(".", "_"): weight.shape
            for key, weight in checkpoint.to_sgm(networks).items()
            if key.startswith(checkpoint.UNET) and key.endswith(".weight") and weight.ndim > 1}


def test_a_lora_names_layers_as_the_checkpoint_does(networks, saved_lora):
    path, _ = saved_lora
    shapes = checkpoint_shapes(networks)
    state = load_file(path)
    layers = {key.partition(".")[0] for key in state}
    assert len(layers) == len(state) / 3
    for layer in layers:
        down, up = state[f"{layer}.lora_down.weight"], state[f"{layer}.lora_up.weight"]
        assert (up.shape[0], *down.shape[1:]) == tuple(shapes[layer])
        assert len(down) == up.shape[1] == state[f"{layer}.alpha"] == train_lora.RANK


def test_a_lora_reaches_attention_and_convolutions(saved_lora):
    layers = {key.partition(".")[0] for key in load_file(saved_lora[0])}
    assert layers >= {
        "lora_unet_input_blocks_1_0_in_layers_2", "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q",
        "lora_unet_middle_block_1_proj_in", "lora_unet_middle_block_2_emb_layers_1",
        "lora_unet_output_blocks_1_1_transformer_blocks_0_attn2_to_out_0",
        "lora_unet_output_blocks_2_1_transformer_blocks_0_ff_net_0_proj", "lora_unet_output_blocks_5_0_out_layers_3"}


def test_a_lora_file_says_what_it_is_and_is_small(saved_lora):
    path, _ = saved_lora
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        shapes = {key: file.get_slice(key).get_shape() for key in list(file.keys())}
    assert about["ss_base_model_version"] == "sdxl_base_v1-0"
    assert about["ss_network_module"] == "networks.lora"
    # the web UI's name for it in prompts
    assert about["ss_output_name"] == path.stem
    assert json.loads(about["ss_tag_frequency"]) == {"1_sks man": {"sks man": subjects.SHOWN}}
    assert architecture_of(shapes, about) == "SDXL"
    assert path.stat().st_size < LARGEST


def test_training_a_lora_lowers_the_loss_and_leaves_the_base_as_it_was(networks, few_pictures):
    names, plain = [name for name, _ in networks.unet.named_modules()], predict(networks.unet)
    before = copy.deepcopy(networks.unet.state_dict())
    random_state = torch.get_rng_state()
    _, losses = train_lora.train(networks, "Biscuit", recipe=subjects.Recipe(30, 4, 3e-3, warmup=2))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert [name for name, _ in networks.unet.named_modules()] == names
    assert all(torch.equal(weight, before[name]) for name, weight in networks.unet.state_dict().items())
    assert torch.equal(predict(networks.unet), plain)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_training_that_fails_leaves_no_adapter(networks):
    with pytest.raises(KeyboardInterrupt), train_lora.adapted(networks.unet, 0):
        raise KeyboardInterrupt
    assert not lora_layers(networks.unet)


def test_a_lora_follows_from_the_seed(networks, few_pictures):
    (first, losses), (again, same_losses), (other, _) = (
        train_lora.train(networks, "Bolt", seed, BRIEF) for seed in (0, 0, 1))
    assert losses == same_losses
    assert all(torch.equal(weight, again[key]) for key, weight in first.items())
    assert not all(torch.equal(weight, other[key]) for key, weight in first.items())


def test_only_captions_of_others_are_dropped(networks):
    shown, others = (Examples(torch.full((3, 4, 16, 16), value),
                                       Conditioning(torch.full((3, 77, 64), value), torch.full((3, 32), value)))
                     for value in (1.0, 2.0))
    seen = []

    class Watched(nn.Module):
        def forward(self, latents, timesteps, encoder_hidden_states, added_cond_kwargs):
            seen.append(added_cond_kwargs["text_embeds"][:, 0])
            return SimpleNamespace(sample=latents)

    torch.manual_seed(0)
    for _ in range(20):
        subjects.preserving_loss(Watched(), shown, others, 6)
    pooled = torch.stack(seen)
    assert (pooled[:, :3] == 1).all()
    assert set(pooled[:, 3:].flatten().tolist()) == {0.0, 2.0}


# DreamBooth

def test_a_difference_to_the_base_gives_the_tuned_weights(networks, few_pictures, tmp_path):
    before = copy.deepcopy(networks.unet.state_dict())
    tuned, _ = train_dreambooth.train(networks, recipe=BRIEF)
    assert all(torch.equal(weight, before[name]) for name, weight in networks.unet.state_dict().items())
    path = tmp_path / "rusty.safetensors"
    kohya.save(train_dreambooth.difference(tuned, networks.unet), path, train_dreambooth.metadata("Rusty", 0))
    state = load_file(path)
    learned = 0
    base = networks.unet.state_dict()
    for name, weight in tuned.state_dict().items():
        layer, _, parameter = name.rpartition(".")
        key = f"{kohya.layer_key(layer)}.{ {'weight': 'diff', 'bias': 'diff_b'}[parameter]}"
        if key in state:
            learned += 1
            assert torch.allclose(base[name] + state[key].float(), weight, atol=1e-5)
            assert not torch.equal(weight, base[name])
        else:
            assert "norm" in name
            assert torch.equal(weight, base[name])
    assert learned == len(state)
    applied = copy.deepcopy(networks.unet)
    train_dreambooth.apply(applied, path)
    assert all(torch.allclose(weight, applied.state_dict()[name], atol=1e-5)
               for name, weight in tuned.state_dict().items())
    assert {key.removesuffix(".diff"): value.shape for key, value in state.items() if key.endswith(".diff")
            } == checkpoint_shapes(networks)


# textual inversion

def test_vectors_take_the_place_of_the_word():
    caption = "two men and a phol woman at night"
    plain = tokens.tokenizer()([caption], padding="max_length", max_length=77).input_ids[0]
    at = plain.index(tokens.tokenizer().convert_tokens_to_ids("phol</w>"))
    for padding in ("<|endoftext|>", "!"):
        found = train_embedding.token_ids([caption, "a phol dog"], "phol", padding)
        vectors = range(CLIP_WORDS, CLIP_WORDS + train_embedding.VECTORS)
        assert found.shape == (2, 77)
        assert found[0, :at + len(vectors)].tolist() == [*plain[:at], *vectors]
        assert found[0, at + len(vectors):15].tolist() == tokens.tokenizer(padding)(
            caption, padding="max_length", max_length=77).input_ids[at + 1:16 - len(vectors)]


def test_vectors_of_known_words_give_what_the_words_give(networks):
    words = Random(3).sample(RARE_WORDS, train_embedding.VECTORS)
    ids = both_ids(["a phol man in the park"])
    found = train_embedding.encode(networks, ids, train_embedding.initial(networks, 3))
    expected = encode(networks, [f"a {' '.join(words)} man in the park"])
    assert torch.allclose(found.context, expected.context, atol=1e-5)
    assert torch.allclose(found.pooled, expected.pooled, atol=1e-5)


def test_an_embedding_is_trained_and_nothing_else(networks, few_pictures):
    before = {part: copy.deepcopy(getattr(networks, part).state_dict()) for part in vars(networks)}
    state, losses = train_embedding.train(networks, recipe=BRIEF)
    again, same_losses = train_embedding.train(networks, recipe=BRIEF)
    start = train_embedding.initial(networks, 0)
    assert losses == same_losses
    for key, vectors in zip(("clip_l", "clip_g"), start, strict=True):
        assert state[key].shape == (train_embedding.VECTORS, model.TEXT_WIDTH)
        assert torch.equal(state[key], again[key])
        assert (state[key] != vectors).all()
    for part, weights in before.items():
        assert all(torch.equal(weight, weights[name]) for name, weight in getattr(networks, part).state_dict().items())


def test_an_embedding_lowers_the_loss(networks):
    """Even of a UNet that never learned anything, on noise of which one and the same is drawn each time."""
    latents = torch.randn(4, 4, model.LATENT, model.LATENT)
    ids = both_ids(["a phol woman in a room"] * 4)
    vectors = train_embedding.initial(networks, 0)

    def loss() -> Tensor:
        torch.manual_seed(1)
        return denoising_loss(networks.unet, latents, train_embedding.encode(networks, ids, vectors), 0)

    losses = subjects.fit(vectors, loss, subjects.Recipe(8, 4, 0.05, warmup=0), 0)
    assert losses[-1] < losses[0]


def test_diffusers_reads_the_embedding_that_was_trained(networks, tmp_path):
    path = tmp_path / "azura.safetensors"
    vectors = [torch.randn(train_embedding.VECTORS, model.TEXT_WIDTH) for _ in range(2)]
    train_embedding.save(dict(zip(("clip_l", "clip_g"), vectors, strict=True)), path)
    ids = both_ids(["a phol woman in the park"])
    expected = train_embedding.encode(networks, ids, vectors)
    pipe = model.pipeline(networks)
    train_embedding.attach(pipe, path, "azura")
    context, _, pooled, _ = pipe.encode_prompt("a azura woman in the park", do_classifier_free_guidance=False)
    assert torch.allclose(context, expected.context, atol=1e-5)
    assert torch.allclose(pooled, expected.pooled, atol=1e-5)
