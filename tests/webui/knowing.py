"""Runs inside the web UI, as a script of a second extension: an analysis that knows the faces, and faces drawn the long
way.

* In a picture of 8 x 8 pixels the first row's red are the seeds of its faces; in others there is a face where
  ``POST /omg-tests/faces`` puts it, ``[x, y, size]`` in pixels each, one list for each drawn picture in turn.
* ``POST /omg-tests/literal`` draws all pictures with a face on every row, by equations alone: IP-Adapter's decoupled
  cross-attention and a ControlNet on InstantID's tokens; ``{}`` ends that. Conditional rows come first; Forge says
  itself which rows are.
* ``POST /omg-tests/ip-adapter`` has Forge's IP-Adapter, with random weights, act on all pictures, or no longer.
* ``POST /omg-tests/no-room`` has Forge find no room on its device for what it loads from then on, or room again.
* ``POST /omg-tests/fault`` has the next IdentityNet fail once.
* ``POST /omg-tests/identitynet`` asks the IdentityNet of a file, and writes what it answers into another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fastapi import Body
from modules import script_callbacks, scripts
from safetensors.torch import load_file, save_file

tiny: Any = import_module("tiny_instantid")  # beside this file's folder
known: Any = tiny.KnownFaces()
known.doubt = ""
undo: list[Any] = []
has_ip_adapter = [False]
room: list[Any] = []
IS_FORGE = "OMG_TEST_FORGE" in os.environ


@contextmanager
def loaded(models: Any, field: str) -> Iterator[Any]:
    yield known


def know(demo: Any, app: Any) -> None:
    from omg_ext.faces import analysis, files, places

    vars(analysis)["loaded"] = loaded
    vars(files)["checked"] = lambda models, field: (Path("detector"), Path("recogniser"))
    places.LEAST_SIDE = 4.0
    if os.environ["OMG_TEST_HALF"]:
        keep_norms_whole(type(identitynets()))

    @app.post("/omg-tests/faces")
    def place(faces: list[list[list[float]]]) -> None:
        known.placed, known.looked = [[tiny.face(*own) for own in of_picture] for of_picture in faces], 0

    @app.get("/omg-tests/faces")
    def looked() -> int:
        return int(known.looked)

    @app.post("/omg-tests/literal")
    def literal(how: dict[str, Any]) -> None:
        while undo:
            undo.pop()()
        if how:
            draw_faces(**how)

    @app.post("/omg-tests/fault")
    def fault() -> None:
        net: Any = import_module("omg_ext.webui.identitynet").IdentityNet
        ask = net.ask

        def fail(*args: Any) -> Any:
            net.ask = ask
            raise ZeroDivisionError("a stand-in for a fault")

        net.ask = fail

    @app.post("/omg-tests/identitynet")
    def ask(how: dict[str, str]) -> None:
        net, given = identitynets().read(Path(how["file"]), "field"), load_file(how["inputs"])
        with torch.no_grad():
            answers = net(given["x"], given["t"], given["context"], given["y"], given["shown"])
        save_file({str(number): answer.contiguous() for number, answer in enumerate(answers)}, how["answers"])


def know_forge(demo: Any, app: Any) -> None:
    """What is there in Forge alone."""
    @app.post("/omg-tests/ip-adapter")
    def ip_adapter(is_on: bool = Body()) -> None:
        has_ip_adapter[0] = is_on

    @app.post("/omg-tests/no-room")
    def no_room(is_on: bool = Body()) -> None:
        management: Any = import_module("backend.memory_management")
        if is_on:
            kept = management.is_device_cpu, management.vram_state
            # as on a card without free memory
            management.is_device_cpu, management.vram_state = lambda device: False, management.VRAMState.NO_VRAM
            room.append(kept)
        else:
            management.is_device_cpu, management.vram_state = room.pop()


def identitynets() -> Any:
    """Those of the web UI that runs."""
    if IS_FORGE:
        return import_module("omg_ext.forge.identitynets").ForgeIdentityNets()
    return import_module("omg_ext.webui.sgm_identitynets").SgmIdentityNets()


def keep_norms_whole(nets: Any) -> None:
    """As ``support.py`` does it to the UNet."""
    read = nets.read

    def in_full(*args: Any) -> Any:
        made = read(*args)
        for module in made.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.float()
        return made

    nets.read = in_full


def draw_faces(seed: int, place: list[float], side: int, adapter: str, identitynet: str, face_scale: float = 0.8,
               identity_scales: tuple[float, ...] = (0.8,)) -> None:
    """Every row has the face of this seed, where it is in a square picture of this side in pixels.

    Args:
        place: x, y and size.
        identity_scales: by UNet call; the last counts for all others.
    """
    from omg_ext.faces.adapter import FaceAdapter
    from omg_ext.faces.keypoints import draw
    from omg_ext.unet.image_prompts import file_order

    nets = identitynets()
    unet, net = nets.unet, nets.read(Path(identitynet), "field")
    own = FaceAdapter.read(adapter, "field")
    tokens = own.tokens(torch.from_numpy(tiny.embedding(seed)), "field")
    pixels = draw(tiny.face(*place).points, (side, side))
    shown = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    marks, calls = [0, 1], [0]

    def of_rows(count: int) -> Any:
        each = count // len(marks)
        return torch.cat([tokens[mark].expand(each, -1, -1) for mark in marks]).to(net.dtype)

    def residuals(x: Any, timesteps: Any, y: Any) -> Any:
        """None where the scale is 0."""
        scale = identity_scales[min(calls[0], len(identity_scales) - 1)]
        calls[0] += 1
        pictures = shown.expand(len(x), -1, -1, -1)
        return [scale * each for each in net(x, timesteps, of_rows(len(x)), y, pictures)] if scale else None

    projections = dict(zip(file_order(unet), own.projections, strict=True))

    def attended(layer: Any, query: Any) -> Any:
        """w Attn(q, K_ip F, V_ip F)."""
        of_face = of_rows(len(query))
        q, k, v = (each.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for each in (
            query, *(F.linear(of_face, weight.to(of_face)) for weight in projections[layer])))
        weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        return face_scale * (weights @ v).transpose(1, 2).flatten(2)

    undo.extend(decoupled(layer, attended) for layer in projections)
    unet.forward = by_its_inputs(unet, residuals, attended, marks) if IS_FORGE else by_hand(unet, residuals)
    undo.append(lambda: vars(unet).pop("forward", None))


def by_hand(unet: Any, residuals: Any) -> Any:
    """The UNet of sgm, of which nothing but its blocks is used."""
    from sgm.modules.diffusionmodules.util import timestep_embedding

    def forward(x: Any, timesteps: Any = None, context: Any = None, y: Any = None, **kwargs: Any) -> Any:
        *down, middle = residuals(x, timesteps, y) or [0] * (len(unet.input_blocks) + 1)
        emb = unet.time_embed(timestep_embedding(timesteps, unet.model_channels)) + unet.label_emb(y)
        skips, h = [], x
        for block, residual in zip(unet.input_blocks, down, strict=True):
            h = block(h, emb, context)
            skips.append(h + residual)
        h = unet.middle_block(h, emb, context) + middle
        for block in unet.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context)
        return unet.out(h)

    return forward


def by_its_inputs(unet: Any, residuals: Any, attended: Any, marks: list[int]) -> Any:
    """Forge's UNet, which can be given residuals, and what stands in for attention.

    Args:
        marks: what comes in a call: 0 for conditional rows, 1 for unconditional ones.
    """
    before = unet.forward

    def with_face(replacing: Any) -> Any:
        def both(query: Any, keys: Any, values: Any, options: Any) -> Any:
            part, number = options["block"]
            block = unet.middle_block if part == "middle" else getattr(unet, f"{part}_blocks")[number]
            layer = block[1].transformer_blocks[options["block_index"]].attn2
            return replacing(query, keys, values, options) + attended(layer, query)

        return both

    def forward(x: Any, timesteps: Any, control: Any = None, transformer_options: Any = None, **given: Any) -> Any:
        marks[:] = transformer_options["cond_or_uncond"]
        own = residuals(x, timesteps, given["y"])
        if own is not None:
            control = control or {"input": [], "middle": [], "output": []}
            control = {"input": control["input"], "middle": added(control["middle"], own[-1:]),
                       "output": added(control["output"], own[:-1])}
        replaced = transformer_options.get("patches_replace", {})
        options = {**transformer_options, "patches_replace": {**replaced, "attn2": {
            place: with_face(patch) for place, patch in replaced.get("attn2", {}).items()}}}
        return before(x, timesteps, control=control, transformer_options=options, **given)

    return forward


def added(others: list[Any], own: list[Any]) -> list[Any]:
    """Residuals of a ControlNet, of which there may be none, and these."""
    return [one if other is None else one + other for one, other in zip(own, others or [None] * len(own), strict=True)]


def decoupled(layer: Any, attended: Any) -> Any:
    """Attn(q, K, V) + w Attn(q, K_ip F, V_ip F) in a cross-attention layer; returns what ends it."""
    before = layer.forward

    def forward(x: Any, context: Any = None, **kwargs: Any) -> Any:
        own = attended(layer, layer.to_q(x))
        return before(x, context=context, **kwargs) + F.linear(own, layer.to_out[0].weight.to(own))

    layer.forward = forward
    return lambda: vars(layer).pop("forward", None)


class Beside(scripts.Script):
    """Has Forge's IP-Adapter act where it is wanted."""

    def title(self) -> str:
        return "OMG test IP-Adapter"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        if has_ip_adapter[0]:
            objects = p.sd_model.forge_objects
            objects.unet = with_ip_adapter(objects.unet)


# what Forge takes for the cross-attentions of a model that is not as wide as SDXL, as files count them
PLACES = [*(("input", number) for number in (1, 2, 4, 5, 7, 8)), *(("output", number) for number in range(3, 12)),
          ("middle", 0)]


def with_ip_adapter(patcher: Any) -> Any:
    """A patcher of Forge's, beside which an IP-Adapter acts on those of :data:`PLACES` that there are."""
    unet, random = patcher.model.diffusion_model, torch.Generator().manual_seed(6)
    widths = {"input": [32, 32, 32, 32, 64, 64, 64, 128, 128], "output": [128] * 3 + [64] * 3 + [32] * 6,
              "middle": [128]}
    width, seen = unet.config["context_dim"], 16
    projection = {"proj.weight": torch.randn(4 * width, seen, generator=random), "proj.bias": torch.zeros(4 * width),
                  "norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    layers = {f"{2 * number + 1}.to_{kind}_ip.weight": 2 * torch.randn(
        widths[part][place], width, generator=random) / width ** 0.5
              for number, (part, place) in enumerate(PLACES) for kind in "kv"}
    apply: Any = import_module("lib_ipadapter.IPAdapterPlus").IPAdapterApply().apply_ipadapter
    adapter = {"image_proj": projection, "ip_adapter": layers}
    made = apply(adapter, patcher, weight=0.7, embeds=torch.randn(2, 1, seen, generator=random))
    return made[0] if isinstance(made, tuple) else made  # Forge's node's outputs; Neo's


script_callbacks.on_app_started(know)
script_callbacks.on_app_started(know_forge)
