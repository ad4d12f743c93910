"""Ways to predict what the concepts' own models see, behind one small protocol."""

from __future__ import annotations
