"""The paper's Tables 1 and 2 and its Figs. 2 a, 5 and 10, for the small world's characters, by ``omg evaluate``.

``python -m bench.world.paper --out FOLDER`` draws some 1,500 pictures and takes an hour on two cores with ``--ray``;
``--quick`` takes minutes. Web UIs draw it, too, if they have the world: see :mod:`bench.world.webui`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from bench.world import evaluation, weights
from bench.world.attributes import IDENTITIES
from bench.world.casts import CFG_SCALE
from bench.world.sweeps import CROWD, PAIR, PAIRS, TWO_MEN
from omg_ext.cli.draw import add_folder
from omg_ext.cli.evaluate import evaluated
from omg_ext.cli.main import carry_out
from omg_ext.cli.workers import Workers
from omg_ext.diffusers.engine import DiffusersEngine
from omg_ext.evaluate.files import SpecFile

SEEDS, STEPS = "0-15", 25
QUICK_SEEDS, QUICK_STEPS = "0-1", 12
_PAPER = {"predict": "separate", "blend_start": 0.3}
# of the picture: the paper guides its concepts like it
_ALIKE = {"cfg_scale": CFG_SCALE}
_WITHOUT_LAYOUT = {**_PAPER, "layout": {"cross": 0, "self": 0}}
_STARTS = [0, 0.2, 0.4, 0.6, 0.8, 1]


def spec(folder: Path, is_quick: bool, seeds: str, steps: int) -> dict[str, Any]:
    """The evaluation; its references are written into a folder.

    Args:
        is_quick: two pairs and their characters alone.
    """
    pairs = [PAIR, TWO_MEN] if is_quick else [*PAIRS, TWO_MEN]
    crowds = [] if is_quick else [CROWD[:count] for count in range(3, len(CROWD) + 1)]
    several = [*(pair.names for pair in pairs), *crowds]
    alone = [name for name in IDENTITIES if any(name in cast for cast in several)]
    casts = [*((name,) for name in alone), *several]
    first, place = len(alone), casts.index(PAIR.names)
    together = list(range(first, len(casts)))
    two = together[:len(pairs)]
    growing = [casts.index(CROWD[:1]), place, *together[len(pairs):]]
    methods = {
        "no LoRA": {"kind": "plain"},
        "single LoRA": {"kind": "single"},
        "simultaneous LoRAs": {"kind": "simultaneous", "casts": together},
        "regional sampling": {"kind": "regional", "casts": two},
        "latent blending": {"kind": "blending", "casts": two},
        "OMG": {"kind": "omg", "request": _PAPER, "concept": _ALIKE},
        "OMG without layout": {"kind": "omg", "request": _WITHOUT_LAYOUT, "concept": _ALIKE, "casts": two},
        "OMG's defaults": {"kind": "omg"},
        "OMG from": {"kind": "omg", "request": _PAPER, "concept": _ALIKE, "casts": [place],
                     "grid": {"request.blend_start": _STARTS}}}
    excerpts = {
        "Fig. 2 a: one at a time and all at once": {
            "methods": ["single LoRA", "simultaneous LoRAs", "OMG", "OMG's defaults"], "casts": two},
        "Fig. 5: initiation timestep": {"methods": ["no LoRA", "OMG from"], "casts": [place]},
        "Fig. 10 a: layout preservation": {"methods": ["no LoRA", "OMG without layout", "OMG"], "casts": two},
        "Fig. 10 b: ways of sampling": {"methods": ["no LoRA", "regional sampling", "latent blending", "OMG"],
                                        "casts": two},
        "Fig. 10 c: numbers of concepts": {"methods": ["no LoRA", "OMG", "OMG's defaults"], "casts": growing}}
    made = evaluation.a_spec(folder, casts, methods=methods, excerpts=excerpts, threshold=0.5, seeds=seeds)
    made["settings"]["steps"] = steps
    return made


def engine() -> DiffusersEngine:
    """Draws the world; more threads than one gain nothing in networks as small as its."""
    torch.set_num_threads(1)
    diffusers.logging.set_verbosity_error()
    return evaluation.engine()


def run(arguments: argparse.Namespace) -> int:
    """Draws, measures and reports. Returns the exit status, see :func:`omg_ext.cli.main.main`."""
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spec.json"
    seeds = arguments.seeds or (QUICK_SEEDS if arguments.quick else SEEDS)
    steps = arguments.steps or (QUICK_STEPS if arguments.quick else STEPS)
    path.write_text(json.dumps(spec(folder, arguments.quick, seeds, steps), indent=1) + "\n")
    return evaluated(arguments, SpecFile.read(path), evaluation.Readers(), Workers(arguments, engine=engine))


def main(given: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser("python -m bench.world.paper", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few characters, seeds and steps")
    parser.add_argument("--seeds", help=f"such as 0-3; {SEEDS}, or {QUICK_SEEDS} for a quick one, without")
    parser.add_argument("--steps", type=int, help=f"of the sampling; {STEPS}, or {QUICK_STEPS}, without")
    add_folder(parser)
    Workers.add_places(parser)
    parser.set_defaults(run=run)
    if reason := weights.missing(weights.CHECKPOINT, weights.FIGURES, weights.IDENTITY):
        sys.exit(reason)
    return carry_out(parser, given)


if __name__ == "__main__":
    sys.exit(main())
