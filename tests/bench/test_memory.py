"""What the bench says about memory is computed on its own, and the package's tensors are as large."""

from __future__ import annotations

import pytest

from bench.memory import full_weights, storage_modes
from bench.subject import Subject
from tests.models.tiny import tiny_sdxl


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return Subject(tiny_sdxl(), 64, tmp_path_factory.mktemp("loras"), 4)


def test_full_weight_networks_take_what_their_layers_take_up_to_the_budget(subject):
    computed, kept, within = full_weights(subject)
    assert kept.value == computed.value > 0
    assert kept.met
    assert within.met
    assert within.value > 0.8 * computed.value / 2


def test_kept_queries_take_the_computed_size(subject):
    values = {row.name: row.value for row in storage_modes(subject, 4)}
    for mode in ("device", "host"):
        assert values[f"Storage mode {mode}: by the package's account"] == pytest.approx(
            values[f"Storage mode {mode}: computed size"])
    assert values["Storage mode recompute: by the package's account"] == 0
