"""The bench measures what it says: whole runs in few steps, and nothing but runs within their time."""

from __future__ import annotations

from collections import Counter

import torch

from bench.speed import changes_of, merged, one_call, read_loras, whole_runs
from bench.subject import Subject
from omg_ext.diffusers import loras
from tests.models.tiny import tiny_sdxl


def test_whole_runs_evaluate_the_rows_of_the_cost_model_and_read_each_lora_file_once(tmp_path, monkeypatch):
    readings: Counter[tuple[int, str]] = Counter()
    load = loras.load_lora

    def counted(pipe, path, field):
        readings[id(pipe), path.name] += 1
        return load(pipe, path, field)

    monkeypatch.setattr(loras, "load_lora", counted)
    subject = Subject(tiny_sdxl(), 64, tmp_path, 4)
    *exact, contrast = [row for row in whole_runs(subject, 6) if row.exactly is not None]
    # one of six steps comes before the blend start: its rows of the second pass are the first pass's
    assert [(row.value, row.met) for row in exact] == [(6 * 2 + 5 * (2 + 4), True)] * 2
    assert contrast.value == 6 * 2 + 5 * (2 + 4) + 4 * 2 * 3  # times, noises, and prompts
    # the six pipelines warm up first; a file that changed afterwards would be read again within a run's time
    assert len(readings) == 6 * 2
    assert set(readings.values()) == {1}


@torch.no_grad()
def test_half_precision_is_measured_and_merged_as_it_is(tmp_path):
    """As on a GPU: LoRA files are of another type than the weights."""
    pipe = tiny_sdxl().to(torch.bfloat16)
    subject = Subject(pipe, 64, tmp_path, 4)
    assert all(row.value > 0 for row in one_call(subject, 1))
    lora = read_loras(subject)[0]
    name, source = next(iter(lora.unet.items()))
    weight = pipe.unet.get_parameter(f"{name}.weight")
    before = weight.float()
    with merged(changes_of(pipe.unet, lora)):
        torch.testing.assert_close(weight.float() - before, source.scale * source.up @ source.down, atol=2e-3, rtol=0.1)
    torch.testing.assert_close(weight.float(), before, atol=2e-3, rtol=0.01)
