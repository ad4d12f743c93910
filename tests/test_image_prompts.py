"""Image prompts: the resampler and decoupled cross-attention against diffusers' own, and adapter files."""

from __future__ import annotations

import copy
import functools
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from safetensors.torch import save_file
from torch import Tensor, nn

import omg_ext.unet.image_prompts
from omg_ext.errors import OMGError
from omg_ext.faces.adapter import FaceAdapter
from omg_ext.faces.resampler import PerceiverAttention, Resampler
from omg_ext.unet.calls import JOINT, PlacesCall, Row, UNetCall
from omg_ext.unet.image_prompts import ImagePrompt, ImagePrompts, file_order
from omg_ext.unet.patches import Patches, cross_attentions
from tests.diffusers_host import difference, pipeline, write_lora
from tests.models.tiny import tiny_sd15, tiny_sdxl
from tests.models.tiny_instantid import EMBEDDING, adapter_state, embedding, flat, image_proj

CLOSE = 1e-4
FIELD = "faces.adapter"
ROWS = (Row(0), Row(0, 0), Row(0, 0, None), Row(0, 1), Row(0, 1, None), Row(0, 0, is_bare=True), Row(0, None, None),
        Row(1, 1))
"""Conditional, unconditional and bare rows of two concepts, and global ones"""


@functools.cache
def unet_of(kind: str = "sdxl") -> Any:
    """As it is initialised, one for all tests: one whose attention is peaked amplifies rounding too much for 1e-4."""
    return (tiny_sdxl(depth=(1, 1, 1)) if kind == "sdxl" else tiny_sd15()).unet


def saved(folder: Path, unet: Any, kind: str = "bin", **options: Any) -> Path:
    state, path = adapter_state(unet, **options), folder / f"ip-adapter.{kind}"
    if kind == "bin":
        torch.save(state, path)
    else:
        save_file(flat(state), path)
    return path


def with_ip_adapter(unet: Any, state: Any, scale: float = 1.0) -> Any:
    """A copy of the UNet into which diffusers has loaded an adapter."""
    own = copy.deepcopy(unet)
    own._load_ip_adapter_weights([{part: dict(tensors) for part, tensors in state.items()}])
    for processor in own.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [scale]
    return own.eval()


# --- the resampler ---

@torch.no_grad()
@pytest.mark.parametrize(("sizes", "count"), [
    ({}, 3), ({"inner": 192, "tokens": 16}, 1), ({"inner": 64, "tokens": 1, "embedding": 7}, 2)], ids=str)
def test_the_resampler_is_that_of_diffusers(sizes, count):
    state = image_proj(48, **sizes)
    theirs: Any = unet_of()._convert_ip_adapter_image_proj_to_diffusers(dict(state))
    assert isinstance(theirs, IPAdapterPlusImageProjection)  # which has four layers, whatever the file
    e = torch.randn(count, sizes.get("embedding", EMBEDDING), generator=torch.Generator().manual_seed(1))
    ours = Resampler(state)(e)
    assert difference(ours, theirs(e.unsqueeze(1))) < CLOSE
    assert ours.shape == (count, sizes.get("tokens", 4), 48)


@torch.no_grad()
def test_a_resampler_has_as_many_layers_as_its_file():
    state = image_proj(48, depth=11)
    resampler, e = Resampler(state), torch.randn(1, EMBEDDING)
    assert len(resampler.layers) == 11
    assert difference(Resampler({name: value for name, value in state.items() if ".10." not in name})(e),
                      resampler(e)) > 1e-3


def test_heads_are_of_64_or_one():
    assert [PerceiverAttention(32, inner).heads for inner in (64, 128, 1280, 32, 96)] == [1, 2, 20, 1, 1]


# --- decoupled cross-attention ---

@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_layers_lie_as_files_count_them(kind):
    unet = unet_of(kind)
    names = {module: name for name, module in unet.named_modules()}
    assert [f"{names[module]}.processor" for module in file_order(unet)] == [
        name for name in unet.attn_processors if "attn2" in name]


def test_layers_of_the_original_unet_are_counted_alike():
    """Its own order is input, middle, output blocks; nine and ten come after two."""
    unet = nn.ModuleDict({part: nn.ModuleList(
        nn.ModuleDict({"attn2": nn.ModuleDict({"to_q": nn.Identity()})}) for _ in range(count))
        for part, count in (("input_blocks", 11), ("middle_block", 2), ("output_blocks", 12))})
    names = {module: name for name, module in unet.named_modules()}
    assert [names[module] for module in file_order(unet)] == [
        f"{part}.{number}.attn2" for part, count in (("input_blocks", 11), ("output_blocks", 12), ("middle_block", 2))
        for number in range(count)]


def inputs(unet: Any, rows: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    width = unet.config.cross_attention_dim
    added = {"text_embeds": random(rows, 32), "time_ids": torch.full((rows, 6), 96.0, dtype=dtype)}
    return {"sample": random(rows, 4, 12, 12), "timestep": torch.full((rows,), 400.0),
            "encoder_hidden_states": random(rows, 77, width),
            "added_cond_kwargs": added if unet.config.addition_embed_type else None}


def run(unet: Any, given: dict[str, Any]) -> Tensor:
    return unet(**given, return_dict=False)[0]


def only(given: dict[str, Any], rows: Sequence[int], image: Tensor) -> dict[str, Any]:
    """Some rows, with an image embedding as diffusers takes it."""
    own = {name: value[rows] for name, value in given.items() if name != "added_cond_kwargs"}
    added = {name: value[rows] for name, value in (given["added_cond_kwargs"] or {}).items()}
    return {**own, "added_cond_kwargs": {**added, "image_embeds": [image.expand(len(rows), 1, 1, -1)]}}


def drawn(unet: Any, given: dict[str, Any], prompts: Sequence[ImagePrompt | None],
          rows: Sequence[Row] = ROWS) -> Tensor:
    with Patches(unet) as patches:
        ImagePrompts(patches, prompts)
        with patches.running(UNetCall(tuple(rows), 0.5, (12, 12))):
            return run(unet, given)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_each_row_attends_to_its_own_concepts_face(tmp_path, kind):
    """Against diffusers' IP-Adapter; rows without a face are what they were, bit for bit."""
    unet = unet_of(kind)
    state = adapter_state(unet)
    adapter = FaceAdapter.read(saved(tmp_path, unet), FIELD)
    adapter.check(unet, FIELD)
    faces, scales = [torch.from_numpy(embedding(seed)) for seed in (1, 2)], (0.8, 1.5)
    prompts = [adapter.prompt(unet, adapter.tokens(e, FIELD), scale) for e, scale in zip(faces, scales, strict=True)]
    given = inputs(unet, len(ROWS))
    plain, result = run(unet, given), drawn(unet, given, prompts)
    for number, row in enumerate(ROWS):
        if row.concept is None or row.is_bare:
            assert torch.equal(result[number], plain[number])
            continue
        theirs = with_ip_adapter(unet, state, scales[row.concept])
        e = torch.zeros(EMBEDDING) if row.part is None else faces[row.concept]
        assert difference(result[number:number + 1], run(theirs, only(given, [number], e))) < CLOSE
        assert difference(result[number], plain[number]) > 1e-2
    alone = drawn(unet, given, [None, prompts[1]])
    for number, row in enumerate(ROWS):
        assert torch.equal(alone[number], plain[number] if row.concept == 0 else result[number])


@torch.no_grad()
def test_places_attend_to_the_face_of_the_concept_that_acts_there(tmp_path):
    """Within a joint row cross-attention is evaluated with a row for each place."""
    unet = unet_of()
    adapter = FaceAdapter.read(saved(tmp_path, unet), FIELD)
    prompts = [adapter.prompt(unet, adapter.tokens(torch.from_numpy(embedding(seed)), FIELD), 1.0) for seed in (1, 2)]
    module: Any = cross_attentions(unet)[0]
    joint = Row(0, JOINT)
    places = (joint, joint, joint, joint._replace(is_bare=True), joint)
    concepts = (0, 0, 1, 1, 2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 6, module.to_q.in_features, generator=generator)
    context = torch.randn(5, 77, module.to_k.in_features, generator=generator)
    plain = module(x, encoder_hidden_states=context)
    with Patches(unet) as patches:
        ImagePrompts(patches, prompts)
        with patches.running(PlacesCall(places, 0.5, (12, 12), concepts=concepts)):
            result = module(x, encoder_hidden_states=context)
        as_rows = [Row(0, 0), Row(0, 0), Row(0, 1), Row(0, 1, is_bare=True), Row(0, 2)]
        with patches.running(UNetCall(tuple(as_rows), 0.5, (12, 12))):
            expected = module(x, encoder_hidden_states=context)
    assert torch.equal(result, expected)
    assert [torch.equal(own, other) for own, other in zip(result, plain, strict=True)] == [False] * 3 + [True] * 2


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
def test_half_precision(tmp_path, dtype, limit):
    unet = unet_of()
    adapter = FaceAdapter.read(saved(tmp_path, unet), FIELD)
    tokens = adapter.tokens(torch.from_numpy(embedding(1)), FIELD)
    rows = [Row(0, 0), Row(0, 0, None), Row(0)]
    exact = drawn(unet, inputs(unet, 3), [adapter.prompt(unet, tokens, 0.8)], rows)
    half = copy.deepcopy(unet).to(dtype)
    result = drawn(half, inputs(half, 3, dtype), [adapter.prompt(half, tokens, 0.8)], rows)
    assert result.dtype == dtype
    assert difference(result.float(), exact) < limit


@torch.no_grad()
def test_networks_act_on_the_queries_first(tmp_path):
    """A LoRA on to_q: the face is attended to with the query that it makes."""
    from omg_ext.unet.deltas import FullWeight
    from omg_ext.unet.networks import RowNetworks, of_concept

    unet = unet_of()
    state, adapter = adapter_state(unet), FaceAdapter.read(saved(tmp_path, unet), FIELD)
    e = torch.from_numpy(embedding(1))
    generator = torch.Generator().manual_seed(0)
    changes = {module.to_q: 0.3 * torch.randn(module.to_q.weight.shape, generator=generator)
               for module in map(_any, cross_attentions(unet))}
    given = inputs(unet, 2)
    with Patches(unet) as patches:
        RowNetworks(patches, [(of_concept(0), {layer: FullWeight(change) for layer, change in changes.items()})])
        ImagePrompts(patches, [adapter.prompt(unet, adapter.tokens(e, FIELD), 1.0)])
        with patches.running(UNetCall((Row(0, 0), Row(0)), 0.5, (12, 12))):
            result = run(unet, given)
    merged = with_ip_adapter(unet, state)
    names = {module: name for name, module in unet.named_modules()}
    for layer, change in changes.items():
        merged.get_submodule(names[layer]).weight += change
    assert difference(result[:1], run(merged, only(given, [0], e))) < CLOSE


def _any(module: Any) -> Any:
    return module


@torch.no_grad()
def test_keys_and_values_are_made_once(tmp_path, monkeypatch):
    unet = unet_of()
    adapter = FaceAdapter.read(saved(tmp_path, unet), FIELD)
    prompts = [adapter.prompt(unet, adapter.tokens(torch.from_numpy(embedding(seed)), FIELD), 1.0) for seed in (1, 2)]
    made: list[Any] = []
    linear = torch.nn.functional.linear

    class Counting:
        scaled_dot_product_attention = staticmethod(torch.nn.functional.scaled_dot_product_attention)

        @staticmethod
        def linear(tokens: Tensor, weight: Tensor) -> Tensor:
            made.append(weight)
            return linear(tokens, weight)

    monkeypatch.setattr(omg_ext.unet.image_prompts, "F", Counting)
    given = inputs(unet, len(ROWS))
    with Patches(unet) as patches:
        ImagePrompts(patches, prompts)
        for _ in range(3):
            with patches.running(UNetCall(ROWS, 0.5, (12, 12))):
                run(unet, given)
    assert len(made) == 2 * 2 * len(cross_attentions(unet))


# --- files ---

@torch.no_grad()
def test_both_kinds_of_files_say_the_same(tmp_path):
    unet = unet_of()
    one, other = (FaceAdapter.read(saved(tmp_path, unet, kind), FIELD) for kind in ("bin", "safetensors"))
    e = torch.from_numpy(embedding(1))
    assert torch.equal(one.tokens(e, FIELD), other.tokens(e, FIELD))
    for ours, theirs in zip(one.projections, other.projections, strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def test_layers_that_do_not_tell_their_sizes_are_taken(tmp_path):
    """As Forge's of few bits."""
    unet, adapter = copy.deepcopy(unet_of()), FaceAdapter.read(saved(tmp_path, unet_of()), FIELD)
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            del module.to_q.out_features, module.to_k.in_features
    adapter.check(unet, FIELD)


def used(path: Path) -> Tensor:
    adapter = FaceAdapter.read(path, FIELD)
    adapter.check(unet_of(), FIELD)
    return adapter.tokens(torch.zeros(EMBEDDING), FIELD)


def refusal(path: Path) -> str:
    with pytest.raises(OMGError) as caught:
        used(path)
    assert caught.value.field == FIELD
    assert "ip-adapter.bin" in caught.value.message or "get it again" in caught.value.message
    return caught.value.message


def test_other_files_are_told_by_what_they_are(tmp_path):
    unet = unet_of()
    path, layers = tmp_path / "other.safetensors", flat({"ip_adapter": adapter_state(unet)["ip_adapter"]})
    for keys, words in (
            ({**layers, "image_proj.proj.weight": None, "image_proj.norm.weight": None}, "an IP-Adapter for pictures"),
            ({**layers, "image_proj.proj.0.weight": None, "image_proj.norm.weight": None,
              "ip_adapter.0.to_q_lora.down.weight": None}, "an IP-Adapter FaceID"),
            ({**layers, "image_proj.perceiver_resampler.latents": None}, "an IP-Adapter FaceID"),
            ({"controlnet_cond_embedding.conv_in.weight": None, "time_embedding.linear_1.weight": None},
             "a ControlNet; if it is InstantID's, it is the IdentityNet"),
            ({"control_model.input_hint_block.0.weight": None}, "a ControlNet"),
            ({"model.diffusion_model.out.0.weight": None}, "a whole checkpoint"),
            ({"something": None}, "nothing that is known"), ({}, "nothing that is known")):
        save_file({name: torch.zeros(2, 2) if value is None else value for name, value in keys.items()}, path)
        message = refusal(path)
        assert words in message, message
        assert message.startswith("other.safetensors is ")
    write_lora(pipeline(), path, only="attn2")
    assert "is a LoRA, which a prompt names" in refusal(path)


def test_an_adapter_for_another_model(tmp_path):
    unet, smaller = unet_of(), unet_of("sd15")
    assert "it has 16 cross-attention layers, the loaded model 11" in refusal(saved(tmp_path, smaller))
    wider = adapter_state(unet)
    wider["ip_adapter"]["3.to_k_ip.weight"] = torch.zeros(64, 2048)
    path = tmp_path / "wide.bin"
    torch.save(wider, path)
    assert "its cross-attention layer 1 is 64 x 2048, the loaded model's 64 x 64" in refusal(path)


def test_an_adapter_for_another_embedding(tmp_path):
    message = refusal(saved(tmp_path, unet_of(), embedding=1280))
    assert "a face's embedding of shape [512] does not fit ip-adapter.bin, which reads 1280 numbers" in message
    assert "what IP-Adapters for pictures read" in message


@pytest.mark.parametrize("missing", ["image_proj.proj_in.weight", "image_proj.layers.1.0.to_kv.weight",
                                     "image_proj.norm_out.bias", "ip_adapter.5.to_v_ip.weight",
                                     "image_proj.layers.0.1.1.weight"])
def test_a_file_that_lacks_something(tmp_path, missing):
    state = flat(adapter_state(unet_of()))
    del state[missing]
    path = tmp_path / "ip-adapter.safetensors"
    save_file(state, path)
    assert "is damaged" in refusal(path)


def test_damaged_files(tmp_path):
    whole = saved(tmp_path, unet_of()).read_bytes()
    for name in ("ip-adapter.bin", "ip-adapter.safetensors"):
        for data in (b"", b"no file", whole[:1000], whole[:-30], whole[100:]):
            (tmp_path / name).write_bytes(data)
            assert "get it again" in refusal(tmp_path / name)
    assert "there is no file" in refusal(tmp_path / "none.bin")


class Bomb:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_no_code_in_a_file_is_run(tmp_path, is_zip):
    path, touched = tmp_path / "ip-adapter.bin", tmp_path / "touched"
    torch.save({**adapter_state(unet_of()), "more": Bomb(touched)}, path,
               _use_new_zipfile_serialization=is_zip)
    assert "could run code" in refusal(path)
    assert not touched.exists()


def test_old_files_of_torch_are_read(tmp_path):
    path = tmp_path / "ip-adapter.bin"
    torch.save(adapter_state(unet_of()), path, _use_new_zipfile_serialization=False)
    used(path)


def test_embeddings_that_are_not_finite_are_refused(tmp_path):
    adapter = FaceAdapter.read(saved(tmp_path, unet_of()), FIELD)
    for value, words in ((float("nan"), "not finite"), (float("inf"), "not finite")):
        with pytest.raises(OMGError, match=words):
            adapter.tokens(torch.full((EMBEDDING,), value), FIELD)


def test_a_program_is_not_run(tmp_path):
    """Older versions of torch take a zip with such a member for one, whatever they are told."""
    path = saved(tmp_path, unet_of())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/constants.pkl", b"")
    with pytest.raises(OMGError, match="holds more than tensors"):
        FaceAdapter.read(path, FIELD)


def test_the_resampler_keeps_its_precision(monkeypatch):
    """The web UI replaces ``forward`` of these classes on some devices."""
    resampler, given = Resampler(image_proj(32)), torch.from_numpy(embedding(1))[None]
    expected = resampler(given)
    for kind in (nn.Linear, nn.LayerNorm):
        monkeypatch.setattr(kind, "forward", lambda module, x: x.half())
    assert torch.equal(resampler(given), expected)
