"""Measures identity, bleeding, layout and occlusion in the small world: tables, JSON and contact sheets.

``python -m bench.world.run``. A full run takes somewhat over an hour on two CPU cores. It can be interrupted: cells
that are done are in the JSON file, and the next call goes on with the others. Contact sheets hold what was run on this
machine.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from bench.table import formatted, hardware
from bench.world import checkpoint, weights
from bench.world.attributes import IDENTITIES
from bench.world.detector import reader_masks
from bench.world.measure import FIGURES, Judges
from bench.world.methods import Studio
from bench.world.model import pipeline
from bench.world.readers import FigureReader, IdentityReader, references
from bench.world.report import Record, default_path, table, targets
from bench.world.sweeps import TABLES, Cell, Runner, chosen

RESULTS = Path(__file__).parents[1] / "results"
OUT = Path("out/bench-world")
QUICK = {"seeds": 2, "steps": 4}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=64, help="pictures per cell")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps")
    parser.add_argument("--cfg-scale", type=float, default=4.5, help="classifier-free guidance scale")
    parser.add_argument("--batch", type=int, default=8, help="pictures at once")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's default is one for each core")
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


def trained(args: argparse.Namespace, loras: Mapping[str, Path]) -> Runner:
    """The trained model, LoRAs and readers."""
    networks = checkpoint.load(weights.CHECKPOINT)
    identity = IdentityReader.load()
    judges = Judges(FigureReader.load(), identity, references(networks.vae, identity))
    studio = Studio(pipeline(networks), loras, args.steps, args.cfg_scale)
    return Runner(studio, judges, args.seeds, args.batch)


def run(runner: Runner, cells: Sequence[Cell], record: Record, again: bool = False) -> None:
    """Runs the cells that are not in the record yet; ``again``: those that are, too."""
    wanted = [cell for cell in cells if again or cell.name not in record.cells]
    with reader_masks(runner.judges.figures):
        for number, cell in enumerate(wanted, 1):
            start = time.perf_counter()
            record.add(cell, runner(cell))
            print(f"[{number}/{len(wanted)}] {cell.name}: {time.perf_counter() - start:.0f} s", flush=True)


def report(record: Record, folder: Path) -> str:
    """All tables and targets as text, also written beside the JSON; contact sheets into ``folder``."""
    parts = []
    for name, cells in TABLES.items():
        if any(cell.name in record.cells for cell in cells):
            parts.append(f"## {name}\n\n{table(cells, record.cells)}")
        sheet = record.sheet(cells)
        if sheet is not None:
            sheet.save(folder / f"{record.path.stem}-{name}.png", optimize=True)
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
    if args.threads:
        torch.set_num_threads(args.threads)
    loras = {name: weights.lora(name) for name in IDENTITIES}
    files = [weights.CHECKPOINT, weights.FIGURES, weights.IDENTITY, *loras.values()]
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
    print(f"{hardware()}; {len(cells)} cells of {args.seeds} pictures into {path}")
    run(trained(args, loras), cells, record, args.again)
    print(report(record, path.parent))
    print(f"Written: {path}, and tables and contact sheets beside it")


if __name__ == "__main__":
    main()
