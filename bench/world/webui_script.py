"""Runs inside the web UI, as the script of a small extension that :mod:`bench.world.webui` writes.

It tells open_clip of the small world's second text encoder before the first checkpoint is loaded.
"""

from pathlib import Path

import open_clip

open_clip.add_model_config(Path(__file__).resolve().parents[1] / "openclip")
