"""Diffusers: pictures are the kept ones from before the core was redesigned."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from bench.world import checkpoint, model, weights
from bench.world.attributes import IDENTITIES
from omg_ext.diffusers import OMGPipeline
from tests.world.before.cases import DIFFUSERS, PROMPT
from tests.world.before.kept import compare

MISSING = weights.missing(weights.CHECKPOINT)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

DEFAULTS: dict[str, Any] = {"prompt": PROMPT, "steps": 10, "cfg_scale": 5.0, "seed": 5}

# on models of this size threads only get in each other's way
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def networks() -> model.Parts:
    """The small world's trained networks."""
    return checkpoint.load(weights.CHECKPOINT)


@pytest.mark.parametrize("name", DIFFUSERS)
def test_pictures_are_as_before(networks: model.Parts, name: str) -> None:
    case = DIFFUSERS[name]
    pipe: Any = model.pipeline(networks)
    if case.scheduler:
        pipe.scheduler = getattr(diffusers, case.scheduler).from_config(pipe.scheduler.config)
    omg = OMGPipeline(pipe, {identity.lower(): weights.lora(identity) for identity in IDENTITIES})
    result = omg(case.request, **{**DEFAULTS, **case.options})
    assert result.warnings == []
    compare("diffusers", name, [np.asarray(picture) for picture in result.images or []])
