"""Runs inside the web UI, as a script of a second extension: an analysis that knows the faces, and faces drawn the long
way.

* In a picture of 8 x 8 pixels the first row's red are the seeds of its faces; in others there is a face where
  ``POST /omg-tests/faces`` puts it, ``[x, y, size]`` in pixels each, one list for each drawn picture in turn.
* ``POST /omg-tests/literal`` draws all pictures with a face on every row, by equations alone: IP-Adapter's decoupled
  cross-attention and a ControlNet on InstantID's tokens; ``{}`` ends that. Conditional rows come first.
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
from modules import devices, script_callbacks, shared
from safetensors.torch import load_file, save_file
from sgm.modules.diffusionmodules.util import timestep_embedding

tiny: Any = import_module("tiny_instantid")  # beside this file's folder
known: Any = tiny.KnownFaces()
known.doubt = ""
undo: list[Any] = []


@contextmanager
def loaded(models: Any, field: str) -> Iterator[Any]:
    yield known


def know(demo: Any, app: Any) -> None:
    from omg_ext.faces import analysis, files, places

    vars(analysis)["loaded"] = loaded
    vars(files)["checked"] = lambda models, field: (Path("detector"), Path("recogniser"))
    places.LEAST_SIDE = 4.0
    if os.environ["OMG_TEST_HALF"]:
        keep_norms_whole(import_module("omg_ext.webui.identitynet").IdentityNet)

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
        from omg_ext.webui.identitynet import IdentityNet

        net, given = IdentityNet.read(Path(how["file"]), "field"), load_file(how["inputs"])
        with torch.no_grad():
            answers = net(given["x"], given["t"], given["context"], given["y"], given["shown"])
        save_file({str(number): answer.contiguous() for number, answer in enumerate(answers)}, how["answers"])


def keep_norms_whole(net: Any) -> None:
    """As ``support.py`` does it to the UNet."""
    read = net.read

    def in_full(*args: Any) -> Any:
        made = read(*args)
        for module in made.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.float()
        return made

    net.read = in_full


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
    from omg_ext.webui.identitynet import IdentityNet

    unet = shared.sd_model.model.diffusion_model
    own = FaceAdapter.read(adapter, "field")
    tokens = own.tokens(torch.from_numpy(tiny.embedding(seed)), "field")
    net = IdentityNet.read(Path(identitynet), "field")
    pixels = draw(tiny.face(*place).points, (side, side))
    shown = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255

    def of_rows(count: int) -> Any:
        return tokens.repeat_interleave(count // 2, 0).to(devices.dtype_unet)

    for layer, (k, v) in zip(file_order(unet), own.projections, strict=True):
        undo.append(decoupled(layer, k, v, of_rows, face_scale))
    calls = [0]

    def forward(x: Any, timesteps: Any = None, context: Any = None, y: Any = None, **kwargs: Any) -> Any:
        scale = identity_scales[min(calls[0], len(identity_scales) - 1)]
        calls[0] += 1
        if scale:
            *down, middle = net(x, timesteps, of_rows(len(x)), y, shown.expand(len(x), -1, -1, -1))
        else:
            down, middle = [0] * len(unet.input_blocks), 0
        emb = unet.time_embed(timestep_embedding(timesteps, unet.model_channels)) + unet.label_emb(y)
        skips, h = [], x
        for block, residual in zip(unet.input_blocks, down, strict=True):
            h = block(h, emb, context)
            skips.append(h + scale * residual)
        h = unet.middle_block(h, emb, context) + scale * middle
        for block in unet.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context)
        return unet.out(h)

    unet.forward = forward
    undo.append(lambda: vars(unet).pop("forward", None))


def decoupled(layer: Any, k: Any, v: Any, of_rows: Any, scale: float) -> Any:
    """Attn(q, K, V) + w Attn(q, K_ip F, V_ip F) in a cross-attention layer; returns what ends it."""
    before = layer.forward

    def forward(x: Any, context: Any = None, **kwargs: Any) -> Any:
        tokens = of_rows(len(x))
        q, own_k, own_v = (each.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for each in (
            layer.to_q(x), F.linear(tokens, k.to(tokens)), F.linear(tokens, v.to(tokens))))
        weights = (q @ own_k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        attended = (weights @ own_v).transpose(1, 2).flatten(2)
        return before(x, context=context, **kwargs) + scale * F.linear(attended, layer.to_out[0].weight)

    layer.forward = forward
    return lambda: vars(layer).pop("forward", None)


script_callbacks.on_app_started(know)
