"""Which web UI this is, and what its Gradio calls things: the one place that looks."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec

IS_FORGE = find_spec("modules_forge") is not None
JS = "_js" if version("gradio").startswith("3.") else "js"
"""The argument of an event that runs in the browser. Forge lets its components take Gradio 3's name, too, but only once
they are made: not those that an extension is told of before."""
