"""Runs inside the web UI, as a script of a second extension: an analysis that knows the faces, and faces drawn the long
way.

* In a picture of 8 x 8 pixels the first row's red are the seeds of its faces; in others there is a face where
  ``POST /omg-tests/faces`` puts it, ``[x, y, size]`` in pixels each, one list for each drawn picture in turn.
* ``POST /omg-tests/literal`` draws all pictures with a face on every row, by equations alone: IP-Adapter's decoupled
  cross-attention and a ControlNet on InstantID's tokens; ``{}`` ends that. Conditional rows come first; Forge says
  itself which rows are.
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
from modules import script_callbacks
from safetensors.torch import load_file, save_file

tiny: Any = import_module("tiny_instantid")  # beside this file's folder
known: Any = tiny.KnownFaces()
known.doubt = ""
undo: list[Any] = []
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

    for layer, (k, v) in zip(file_order(unet), own.projections, strict=True):
        undo.append(decoupled(layer, k, v, of_rows, face_scale))
    unet.forward = by_its_inputs(unet, residuals, marks) if IS_FORGE else by_hand(unet, residuals)
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


def by_its_inputs(unet: Any, residuals: Any, marks: list[int]) -> Any:
    """Forge's UNet, which can be given residuals.

    Args:
        marks: what comes in a call: 0 for conditional rows, 1 for unconditional ones.
    """
    before = unet.forward

    def forward(x: Any, timesteps: Any, control: Any = None, **given: Any) -> Any:
        marks[:] = given["transformer_options"]["cond_or_uncond"]
        own = residuals(x, timesteps, given["y"])
        if own is not None:
            control = control or {"input": [], "middle": [], "output": []}
            control = {"input": control["input"], "middle": added(control["middle"], own[-1:]),
                       "output": added(control["output"], own[:-1])}
        return before(x, timesteps, control=control, **given)

    return forward


def added(others: list[Any], own: list[Any]) -> list[Any]:
    """Residuals of a ControlNet, of which there may be none, and these."""
    return [one if other is None else one + other for one, other in zip(own, others or [None] * len(own), strict=True)]


def decoupled(layer: Any, k: Any, v: Any, of_rows: Any, scale: float) -> Any:
    """Attn(q, K, V) + w Attn(q, K_ip F, V_ip F) in a cross-attention layer; returns what ends it."""
    before = layer.forward

    def forward(x: Any, context: Any = None, **kwargs: Any) -> Any:
        tokens = of_rows(len(x))
        q, own_k, own_v = (each.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for each in (
            layer.to_q(x), F.linear(tokens, k.to(tokens)), F.linear(tokens, v.to(tokens))))
        weights = (q @ own_k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        attended = (weights @ own_v).transpose(1, 2).flatten(2)
        return before(x, context=context, **kwargs) + scale * F.linear(attended, layer.to_out[0].weight.to(attended))

    layer.forward = forward
    return lambda: vars(layer).pop("forward", None)


script_callbacks.on_app_started(know)
