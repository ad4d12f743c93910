"""What the command line says, and to whom it goes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import OMGError
from . import draw, evaluate

INTERRUPTED = 130


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command. Returns its exit status: 0 if all was done, 1 if not all could be, 2 if nothing was tried."""
    parser = argparse.ArgumentParser("omg", description="OMG: several personalised concepts in one picture.")
    parser.add_argument("--version", action="version", version=f"omg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    draw.add(commands)
    evaluate.add(commands)
    return carry_out(parser, given)


def carry_out(parser: argparse.ArgumentParser, given: Sequence[str] | None = None) -> int:
    """Runs what a parser sets as ``run``. Returns the exit status, see :func:`main`."""
    try:
        arguments = parser.parse_args(given)
        status: int = arguments.run(arguments)
    except OMGError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return status
