"""``omg draw``: a list of jobs becomes a folder of pictures."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..jobs.cost import rows, seconds_of_work, work_of
from ..jobs.job import Job
from ..jobs.lists import Fault, JobList, of_text
from ..jobs.manifest import FAILURES, entries
from ..jobs.run import Run, Share, Summary
from ..jobs.store import Store
from .workers import Workers

_SHOWN = 50
_EPILOG = """\
JOBS is a .jsonl file (a JSON object per line), a .yaml file (a list of them, or `jobs:` and `defaults:`) or a .csv file
(its first line names the fields). Fields: prompt, negative_prompt, seed or seeds ("0-99"), steps, cfg_scale, width,
height, sampler, scheduler, checkpoint, name, request (what OMG does; see README.md), and grid, an object of lists whose
combinations are all drawn. What is in the folder already is not drawn again.
"""


def add(commands: Any) -> None:
    """Adds the command to a parser's."""
    parser = commands.add_parser("draw", help="draw a list of jobs into a folder", epilog=_EPILOG,
                                 description="Draw a list of jobs into a folder, but for what is there already.",
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=run)
    parser.add_argument("jobs", type=Path, metavar="JOBS", help="the list")
    add_options(parser)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", type=setting, dest="settings",
                        help="for jobs that do not say, such as steps=20 or request.blend_start=0.3")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of all commands that draw."""
    add_folder(parser)
    Workers.add(parser)


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what is drawn into which folder."""
    parser.add_argument("--out", required=True, metavar="FOLDER", help="for the pictures; an address such as s3://... "
                                                                       "works where fsspec has the package for it")
    parser.add_argument("--spread", action="store_true", help="over 256 folders, for very many pictures")
    parser.add_argument("--share", type=share, default=Share(), metavar="I/N",
                        help="draw every Nth job alone: 1/4, 2/4, 3/4 and 4/4 are four runs that need not know each "
                             "other")
    parser.add_argument("--dry-run", action="store_true", help="check the list, count what there is to do, and stop")


def run(arguments: argparse.Namespace) -> int:
    """See :func:`omg_ext.cli.main.main`."""
    store = Store(arguments.out, arguments.spread)
    work = Run(JobList(arguments.jobs, dict(arguments.settings)), store, arguments.share)
    return carried_out(work, Workers(arguments), store, arguments.jobs, arguments.dry_run)


def carried_out(work: Run, workers: Workers, store: Store, source: Path, is_dry: bool) -> int:
    """Checks all jobs, and draws those that are left. Returns the exit status, see :func:`omg_ext.cli.main.main`.

    Args:
        source: the file that the jobs are from, for messages.
        is_dry: nothing is drawn; it is counted.
    """
    with tqdm(desc="checking", unit=" jobs", delay=1) as bar:
        faults = work.check(workers.check, lambda job: bar.update())
    if faults:
        tell(source, faults)
        return 2
    if not is_dry:
        store.open()
    work.look()
    say(f"{many(work.total, 'picture')}"
         + (f", {work.repeated} of the list twice" if work.repeated else "")
         + (f"; {work.before} there already" if work.before else ""))
    if is_dry:
        _estimate(work, store)
        return 0
    if work.before == work.total:
        return 0
    return _drawn(work, workers, store)


def _drawn(work: Run, workers: Workers, store: Store) -> int:
    with (workers.pool(store) as pool,
          tqdm(total=work.total, initial=work.before, unit="picture", smoothing=0.05) as bar):
        def watch(job: Job) -> None:
            bar.set_postfix_str(f"{work.summary.failed} failed" if work.summary.failed else "", refresh=False)
            bar.update()

        try:
            work.draw(pool, watch)
        finally:
            bar.close()
            _report(work.summary, store)
    return 1 if work.summary.failed or work.summary.left else 0


def _report(summary: Summary, store: Store) -> None:
    for reason in summary.gone:
        say(f"lost a worker: {reason}")
    for reason in summary.reasons:
        say(f"failed: {reason}")
    if summary.failed > len(summary.reasons):
        say(f"... and {summary.failed - len(summary.reasons)} more, see {store.url}/{FAILURES}")
    say(f"{many(summary.drawn, 'picture')} drawn into {store.url}"
         + (f", {summary.failed} failed" if summary.failed else "")
         + (f", {summary.left} left: run it again to go on" if summary.left else ""))


def _estimate(work: Run, store: Store) -> None:
    count = total = 0
    amount = 0.0
    for job in work.left():
        count, total, amount = count + 1, total + rows(job), amount + work_of(job)
    say(f"{many(count, 'picture')} to draw, about {total:,} rows of the model")
    rate = seconds_of_work(entries(store))
    say("how long that takes is known once some are drawn into this folder" if rate is None else
         f"about {_duration(rate * amount)} for one worker, by what is drawn in this folder")


def tell(path: Path, faults: Sequence[Fault]) -> None:
    """Says what is wrong with a file."""
    for fault in faults[:_SHOWN]:
        say(f"{path}, {fault}")
    if len(faults) > _SHOWN:
        say(f"... and {len(faults) - _SHOWN} more")
    say(f"{many(len(faults), 'line')} cannot be drawn; nothing was drawn")


def setting(text: str) -> tuple[str, Any]:
    """``FIELD=VALUE``."""
    path, found, value = text.partition("=")
    if not found or not path:
        raise argparse.ArgumentTypeError(f"expected FIELD=VALUE, got {text}")
    return path, of_text(path, value)


def share(text: str) -> Share:
    """``I/N``, from 1/N to N/N."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected 1/N to N/N, such as 1/4, got {text}")
    return Share(int(match[1]), int(match[2]))


def many(count: int, what: str) -> str:
    """"3 pictures"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def say(text: str) -> None:
    """Says something, above the progress if there is one."""
    tqdm.write(text, file=sys.stderr)
