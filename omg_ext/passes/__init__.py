"""The algorithm: first pass, visual comprehension, second pass (paper Sec. 3), and all that it asks of a host."""

from __future__ import annotations
