"""Measures the claims about speed and memory: a table, and JSON in bench/results.

On a CPU the model is one of SDXL's shape at a quarter of its widths and 512x512, on a CUDA GPU one of SDXL's full size
in float16 at 1024x1024. Both are random: speed and memory do not depend on training.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import diffusers
import torch

from bench.detectors import detectors
from bench.faces import faces, peaks_of_faces
from bench.memory import full_weights, left_behind, storage_modes
from bench.speed import one_call, read_loras, whole_runs
from bench.subject import Subject, full_size, quarter_width
from bench.table import Row, formatted, save
from bench.ways import COUNTS, defaults, peaks, ways
from omg_ext.evaluate.conditions import hardware

RESULTS = Path(__file__).parent / "results"
PARTS = ("memory", "speed", "ways", "faces", "detectors")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = parser.add_mutually_exclusive_group()
    device.add_argument("--gpu", action="store_true", default=torch.cuda.is_available(),
                        help="the full-size model (the default where CUDA is)")
    device.add_argument("--cpu", dest="gpu", action="store_false", help="the narrow model")
    parser.add_argument("--threads", type=int, default=1,
                        help="CPU threads; runs take turns, each in a Python thread of its own, and with more than one "
                             "(the default) their thread pools get in each other's way")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts; all by default")
    parser.add_argument("--counts", nargs="+", type=int, choices=range(1, 6), default=COUNTS, metavar="K",
                        help="concepts in the part \"ways\"")
    parser.add_argument("--runs", type=int, default=50,
                        help="small runs in the part \"memory\", which makes three times as many and up to 30 more; 50 "
                             "by default")
    parser.add_argument("--quick", action="store_true", help="small and few runs, to see that it works; writes nothing")
    return parser.parse_args()


def main() -> None:
    """Measures, prints, writes."""
    args = arguments()
    diffusers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    size, steps = (1024 if args.gpu else 512), 50
    small = size // 2 if args.gpu else 64
    repeats, runs = 9, args.runs
    if args.quick:
        size, steps, repeats, runs = size // 4, 10, 3, 10
    rows: list[Row] = []

    def report(part: list[Row]) -> None:
        if args.quick:  # the targets are meant for whole runs at full size
            part = [replace(row, most=None) for row in part]
        rows.extend(part)
        print(formatted(part), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        # rank 32 is to SDXL's layers what rank 8 is to those a quarter as wide
        model, rank = (full_size(), 32) if args.gpu else (quarter_width(), 8)
        subject = Subject(model, size, Path(folder), rank)
        about = f"random SDXL-shaped UNet of {subject.parameters / 1e6:.3g} M parameters, {subject.pipe.unet.dtype}"
        print(f"{hardware()}; {about}")
        if "memory" in args.only:
            little = replace(subject, size=small)
            report(left_behind("small runs", lambda: little.omg(4), runs))
            report(left_behind("small runs without LoRAs", lambda: little.omg(4, tags=False), runs))
            report(left_behind("readings of both LoRA files", lambda: read_loras(little), runs))
            report(storage_modes(replace(subject, size=size // 2), 10))
            report(full_weights(subject))
        if "speed" in args.only:
            report(one_call(replace(subject, rank=32), repeats))
            report(whole_runs(subject, steps))
        if "ways" in args.only:
            report(ways(subject, min(steps, 20), args.counts))
            report(defaults(subject, steps))
            report(peaks(subject, args.counts))
        if "faces" in args.only:
            report(faces(subject, min(steps, 20)))
            report(peaks_of_faces(replace(subject, size=size // 2)))
    if "detectors" in args.only and not args.quick:
        report(detectors(args.threads))
    part = "" if set(args.only) == set(PARTS) else "-" + "-".join(sorted(args.only))
    if not args.quick:
        print(f"Written: {save(rows, {'model': about, 'diffusers': diffusers.__version__}, RESULTS, part)}")


if __name__ == "__main__":
    main()
