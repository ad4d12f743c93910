"""``omg evaluate``: methods compared by their pictures: they are drawn into a folder, measured, and reported there."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..evaluate.files import SpecError, SpecFile
from ..evaluate.plan import Plan
from ..evaluate.readers import Models, Readers
from ..evaluate.report import PAGE
from ..evaluate.run import FIRST_PASS, Measuring
from ..jobs.run import Run, Share
from ..jobs.store import Store
from .draw import add_options, carried_out, many, say, tell
from .workers import Workers

_EPILOG = """\
SPEC is a .yaml or .json file with concepts, casts, prompts, methods and seeds; docs/evaluation.md explains each. What
is in the folder already is not drawn again. Figures whose models are not given are left out, and the report says so.
"""


def add(commands: Any) -> None:
    """Adds the command to a parser's."""
    parser = commands.add_parser("evaluate", help="compare methods by their pictures",
                                 description="Compare methods by their pictures: draw them, measure them, report.",
                                 epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=run)
    parser.add_argument("spec", type=Path, metavar="SPEC", help="what is compared")
    add_options(parser)
    measured = parser.add_argument_group("what measures", "--face-reader measures Identity Alignment, and --detectors "
                                                          "has the models of the spec's regions.")
    measured.add_argument("--clip", type=Path, metavar="FOLDER",
                          help="a CLIPModel in transformers' form, such as ViT-B/32 or ViT-L/14")


def run(arguments: argparse.Namespace) -> int:
    """See :func:`omg_ext.cli.main.main`."""
    try:
        file = SpecFile.read(arguments.spec)
    except SpecError as found:
        tell(arguments.spec, [found.fault])
        return 2
    faces = None if arguments.face_reader is None else Path(arguments.face_reader)
    readers = Models(arguments.clip, faces, [Path(folder) for folder in arguments.detectors], arguments.device or "")
    return evaluated(arguments, file, readers, Workers(arguments, measures=True))


def evaluated(arguments: argparse.Namespace, file: SpecFile, readers: Readers, workers: Workers) -> int:
    """Draws, measures and reports. Returns the exit status, see :func:`omg_ext.cli.main.main`.

    Args:
        arguments: those of :func:`.draw.add_folder`.
        readers: of the pictures.
        workers: who draw them.
    """
    store = Store(arguments.out, arguments.spread)
    measuring = Measuring(file, readers)
    reasons = measuring.left_out
    for reason in dict.fromkeys(reasons.values()):
        say(f"left out: {', '.join(name for name, own in reasons.items() if own == reason)}; {reason}")
    with measuring.meter():
        pass  # what measures cannot be had is known before hours of drawing
    work = Run(Plan(file), store, arguments.share)
    status = carried_out(work, workers, store, file.path, arguments.dry_run)
    if status == 2 or arguments.dry_run:
        return status
    if arguments.share != Share():
        say("This was one of several shares; once all are drawn, the same command without --share measures them")
        return status
    if not work.before + work.summary.drawn:
        say("nothing was drawn, so there is nothing to measure")
        return 1
    return max(status, _reported(measuring, store, work.total + work.repeated))


def _reported(measuring: Measuring, store: Store, total: int) -> int:
    with tqdm(desc="measuring", unit="picture", total=total) as bar:
        report = measuring.report(store, bar.update)
    for name in report.damaged:
        say(f"{store.url}/{name} is damaged, and does not count; delete it"
            + (" and its picture" if name.endswith(FIRST_PASS) else "") + ", and the same command draws it again")
    if not report.results:
        say("no picture is whole, so there is nothing to measure")
        return 1
    report.write(store)
    for warning in report.warnings:
        say(warning)
    say(f"{many(len(report.results), 'picture')} measured, see {store.url}/{PAGE}"
        + (f"; {report.missing} are missing" if report.missing else ""))
    return 1 if report.missing or report.damaged else 0
