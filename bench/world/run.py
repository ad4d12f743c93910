"""Measures identity, bleeding, layout and occlusion in the small world: tables, JSON and contact sheets.

``python -m bench.world.run``. A full run takes about an hour on two CPU cores. Cells that start alike are made by one
process on one core, as many processes as there are cores: networks as small as the world's gain little from a second
core. A run can be interrupted: cells that are done are in the JSON file, those that start alike all together, and the
next call goes on with the others. Contact sheets hold what was run on this machine.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import diffusers

from bench.table import formatted
from bench.world import checkpoint, frontier, weights
from bench.world.attributes import IDENTITIES
from bench.world.casts import CFG_SCALE
from bench.world.detector import reader_masks
from bench.world.measure import FIGURES, Judges
from bench.world.methods import Studio
from bench.world.model import pipeline
from bench.world.parallel import CORES, in_processes
from bench.world.readers import FigureReader, IdentityReader, portraits, references
from bench.world.report import Record, averages, default_path, table, targets
from bench.world.sweeps import TABLES, Cell, Result, Runner, chosen
from omg_ext.evaluate.conditions import hardware
from omg_ext.faces.adapter import FaceAdapter

RESULTS = Path(__file__).parents[1] / "results"
OUT = Path("out/bench-world")
QUICK = {"seeds": 2, "steps": 4}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=64, help="pictures per cell")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps")
    parser.add_argument("--cfg-scale", type=float, default=CFG_SCALE, help="classifier-free guidance scale")
    parser.add_argument("--batch", type=int, default=8, help="pictures at once")
    parser.add_argument("--jobs", type=int, default=CORES, help="processes, of one thread each; one for each core")
    parser.add_argument("--cells", nargs="+", default=[], metavar="NAME",
                        help=f"only these: tables ({', '.join(TABLES)}) or cells, such as 'Rusty+Azura: *'")
    parser.add_argument("--again", action="store_true", help="run cells that are done again")
    parser.add_argument("--file", type=Path, help="the JSON file; today's in bench/results by default")
    parser.add_argument("--list", action="store_true", help="say which cells there are, and stop")
    parser.add_argument("--quick", action="store_true",
                        help=f"{QUICK['seeds']} seeds and {QUICK['steps']} steps, for a try; writes to {OUT}")
    args = parser.parse_args(given)
    if args.quick:
        vars(args).update(QUICK)
    return args


def weights_digest(files: Iterable[Path]) -> str:
    """What tells other weights from these."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def settings_of(args: argparse.Namespace, files: Iterable[Path]) -> dict[str, Any]:
    """What all figures of a file depend on."""
    return {"seeds": args.seeds, "steps": args.steps, "cfg_scale": args.cfg_scale, "batch": args.batch,
            "weights": weights_digest(files)}


@dataclass(frozen=True)
class Sampling:
    """What a :class:`Runner` of the trained model needs to be told; see :func:`arguments`."""

    seeds: int
    steps: int
    cfg_scale: float
    batch: int


@dataclass(frozen=True)
class Made:
    """A cell that was run, and how long that took."""

    cell: Cell
    result: Result
    seconds: float


def loras() -> Mapping[str, Path]:
    """The identities' LoRA files, by their names in prompts."""
    return {name.lower(): weights.lora(name) for name in IDENTITIES}


@cache
def trained(sampling: Sampling) -> Runner:
    """The trained model, LoRAs and readers; each process loads them once."""
    networks = checkpoint.load(weights.CHECKPOINT)
    identity = IdentityReader.load()
    judges = Judges(FigureReader.load(), identity, references(networks.vae, identity))
    adapter = FaceAdapter.read(weights.ADAPTER, "adapter") if weights.ADAPTER.exists() else None
    studio = Studio(pipeline(networks), loras(), sampling.steps, sampling.cfg_scale, adapter=adapter,
                    portraits=portraits(identity))
    return Runner(studio, judges, sampling.seeds, sampling.batch)


def made_by(runner: Runner, cells: Iterable[Cell]) -> Iterator[Made]:
    """Runs the cells one after the other."""
    with reader_masks(runner.judges.figures):
        for cell in cells:
            start = time.perf_counter()
            result = runner(cell)
            yield Made(cell, result, time.perf_counter() - start)


def _job(sampling: Sampling, cells: Sequence[Cell]) -> list[Made]:
    diffusers.logging.set_verbosity_error()
    return list(made_by(trained(sampling), cells))


def made_by_processes(sampling: Sampling, cells: Iterable[Cell], jobs: int) -> Iterator[Made]:
    """Runs the cells in so many processes, each time all that start alike in one: they share ordinary pictures."""
    alike = [list(group) for _, group in groupby(cells, key=lambda cell: cell.start)]
    # the long ones first, so that all processes end at about one time
    alike.sort(key=lambda group: -sum(len(cell.cast.names) for cell in group))
    for made in in_processes(partial(_job, sampling), alike, jobs):
        yield from made


def unknown(cells: Iterable[Cell], record: Record) -> list[Cell]:
    """The cells that are not in the record yet."""
    return [cell for cell in cells if cell.name not in record.cells]


def enter(made: Iterable[Made], record: Record, count: int) -> None:
    """Enters ``count`` cells into the record as they come, and says so."""
    for number, each in enumerate(made, 1):
        record.add(each.cell, each.result)
        print(f"[{number}/{count}] {each.cell.name}: {each.seconds:.0f} s", flush=True)


def report(record: Record, folder: Path) -> str:
    """All tables and targets as text, also written beside the JSON; contact sheets into ``folder``."""
    parts = []
    for name, cells in TABLES.items():
        if any(cell.name in record.cells for cell in cells):
            parts.append(f"## {name}\n\n{table(cells, record.cells)}")
            if name in ("methods", "faces"):
                parts.append(averages(cells, record.cells))
        sheet = record.sheet(cells)
        if sheet is not None:
            sheet.save(folder / f"{record.path.stem}-{name}.png", optimize=True)
    frontier.draw(record.cells, folder / f"{record.path.stem}-frontier-curves.png")
    met = targets(record.cells)
    if met:
        parts.append(f"## targets\n\n```\n{formatted(met)}\n```")
    parts.append("\n".join(f"- {name}: {meaning}" for name, meaning in FIGURES.items()))
    text = "\n\n".join(parts) + "\n"
    record.path.with_suffix(".md").write_text(text)
    return text


def main() -> None:
    """Measures, prints, writes."""
    args = arguments()
    diffusers.logging.set_verbosity_error()
    files = [weights.CHECKPOINT, weights.FIGURES, weights.IDENTITY, *loras().values()]
    try:
        cells = chosen(args.cells)
        if args.list:
            print("\n".join(cell.name for cell in cells))
            return
        if reason := weights.missing(*files):
            raise FileNotFoundError(reason)
        path = args.file or default_path(OUT if args.quick else RESULTS)
        record = Record.open(path, OUT / path.stem, settings_of(args, files))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    wanted = cells if args.again else unknown(cells, record)
    if any(cell.is_conditioned for cell in wanted) and not weights.CONTROL.exists():
        print("Without those after silhouettes, whose ControlNet `make world ARGS=control` trains")
        wanted = [cell for cell in wanted if not cell.is_conditioned]
    if any(cell.has_faces for cell in wanted) and not weights.ADAPTER.exists():
        print("Without faces, whose adapter `make world ARGS=instantid` trains")
        wanted = [cell for cell in wanted if not cell.has_faces]
    print(f"{hardware()}; {len(wanted)} cells of {args.seeds} pictures into {path}")
    sampling = Sampling(args.seeds, args.steps, args.cfg_scale, args.batch)
    enter(made_by_processes(sampling, wanted, args.jobs), record, len(wanted))
    print(report(record, path.parent))
    print(f"Written: {path}, and tables and contact sheets beside it")


if __name__ == "__main__":
    main()
