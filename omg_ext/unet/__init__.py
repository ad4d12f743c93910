"""What acts on the UNet: one owner of hooks, and the interventions that attach to it and read the running call."""

from __future__ import annotations
