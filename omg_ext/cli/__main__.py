"""``python -m omg_ext.cli``: the same as the command ``omg``."""

import sys

from .main import main

sys.exit(main())
