"""``python -m omg_ext.cli``, and the command ``omg``."""

import sys

from .main import main


def run() -> None:
    """Ends the process with the command's exit status."""
    sys.exit(main())


if __name__ == "__main__":
    run()
