"""Jobs on diffusers pipelines: what is drawn, what is refused, and what stays loaded."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from omg_ext.comprehension import DETECTORS, AttentionDetector, Models
from omg_ext.diffusers import FaceModels, OMGPipeline, samplers
from omg_ext.diffusers.engine import DiffusersEngine
from omg_ext.errors import OMGError
from omg_ext.jobs.draw import Drawn
from omg_ext.jobs.job import Job, parse_job
from omg_ext.request import Detect
from tests.diffusers_host import PROMPT, SIZE, assert_untouched, left_and_right, snapshot, two_concepts, write_lora
from tests.models.tiny import tiny_sd15, tiny_sdxl


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints in diffusers' form, in a folder of folders."""
    folder = tmp_path_factory.mktemp("models")
    tiny_sdxl(depth=(1, 1, 1)).save_pretrained(folder / "xl")
    tiny_sdxl(depth=(1, 1, 1), seed=1).save_pretrained(folder / "more" / "other xl")
    tiny_sd15().save_pretrained(folder / "one five")
    return folder


@pytest.fixture(scope="module")
def loras(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    pipe = tiny_sdxl(depth=(1, 1, 1))
    (folder / "people").mkdir()
    write_lora(pipe, folder / "one.safetensors", seed=1)
    write_lora(pipe, folder / "people" / "two.safetensors", seed=2)
    return folder


@pytest.fixture(scope="module")
def engine(models: Path, loras: Path) -> DiffusersEngine:
    return engine_of(models, loras)


def engine_of(models: Path, loras: Path | None = None, **options: Any) -> DiffusersEngine:
    return DiffusersEngine(**{"checkpoint": models / "xl", "checkpoints": models, "loras": loras, "device": "cpu",
                              **options})


def job_of(**fields: Any) -> Job:
    return parse_job({"prompt": PROMPT, "steps": 3, "width": SIZE, "height": SIZE, "seed": 7, **fields})


@contextmanager
def checked(pipe: Any) -> Iterator[None]:
    """Nothing stays hooked."""
    before = snapshot(pipe)
    yield
    assert_untouched(pipe, before)


def same(first: Image.Image, second: Image.Image) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def values_of(text: str) -> dict[str, str]:
    """The last line of an infotext whose values have no commas."""
    return dict(item.split(": ", 1) for item in text.splitlines()[-1].split(", "))


@pytest.mark.parametrize("request_", [None, two_concepts(show=["first_pass", "masks", "overlay"])],
                         ids=["ordinary", "concepts"])
def test_the_picture_is_the_pipelines(engine, models, loras, request_):
    job = job_of(negative_prompt="blue", cfg_scale=5, **({} if request_ is None else {"request": request_}))
    drawn = engine.draw(job)
    omg = OMGPipeline.from_folder(models / "xl", {"one": loras / "one.safetensors",
                                                  "two": loras / "people" / "two.safetensors"})
    omg.pipe.scheduler = samplers.scheduler(samplers.sampling("DPM++ 2M"), omg.pipe.scheduler.config, is_sdxl=True,
                                            seed=7)
    wanted = omg(request_, PROMPT, negative_prompt="blue", steps=3, cfg_scale=5, height=SIZE, width=SIZE, seed=7)
    assert wanted.images is not None
    assert same(drawn.picture, wanted.images[0])
    assert same(engine.draw(job).picture, drawn.picture)
    assert not same(engine.draw(msgspec.structs.replace(job, seed=8)).picture, drawn.picture)
    if request_ is None:
        assert drawn.extras == {}
        return
    assert set(drawn.extras) == {"first_pass", "mask-0", "mask-1", "overlay"}
    assert same(drawn.extras["first_pass"], wanted.first_pass[0])
    assert same(drawn.extras["overlay"], wanted.overlay[0])
    mask = wanted.masks[0][1]
    assert mask is not None
    assert (drawn.extras["mask-1"].mode, drawn.extras["mask-1"].size) == ("L", (SIZE, SIZE))
    np.testing.assert_allclose(np.asarray(drawn.extras["mask-1"]) / 255, mask, atol=1 / 255)


def test_what_only_the_web_ui_reads_in_a_prompt_is_told(engine):
    concepts = [{**each, "prompt": prompt} for each, prompt in
                zip(left_and_right(), ("a (man:1.2)", "a man, one [small] (woman)"), strict=True)]
    drawn = engine.draw(job_of(prompt="a man AND a woman", request={"concepts": concepts}))
    told = [warning for warning in drawn.warnings if "plain text" in warning]
    assert [warning.split(" is ")[0] for warning in told] == ["prompt: AND", "request.concepts[0].prompt: (man:1.2)"]
    assert "plain text" in drawn.infotext


def test_a_request_that_is_not_enabled_is_an_ordinary_picture(engine):
    off = {"concepts": left_and_right(), "enabled": False, "show": ["first_pass", "masks"]}
    drawn = engine.draw(job_of(request=off))
    assert same(drawn.picture, engine.draw(job_of()).picture)
    assert drawn.extras == {}
    assert "OMG" not in values_of(drawn.infotext)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_every_sampler_draws(engine, sampler):
    """*empty second pass*: the first pass is the picture, whatever noise the sampler adds."""
    never = {"concepts": left_and_right(), "blend_start": 1, "show": ["first_pass"], "predict": "separate"}
    drawn = engine.draw(job_of(sampler=sampler, request=never))
    assert same(drawn.picture, drawn.extras["first_pass"])
    assert np.asarray(drawn.picture).std() > 0
    assert same(engine.draw(job_of(sampler=sampler)).picture, drawn.picture)


def test_infotext(engine):
    drawn = engine.draw(job_of(prompt=f"{PROMPT}<lora:one>", sampler="Euler", scheduler="Karras", cfg_scale=4.5))
    text, line = drawn.infotext.split("\n")
    assert text == f"{PROMPT}<lora:one>"
    found = values_of(line.replace('"', ""))
    assert {name: found[name] for name in ("Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model")
            } == {"Steps": "3", "Sampler": "Euler", "Schedule type": "Karras", "CFG scale": "4.5", "Seed": "7",
                  "Size": f"{SIZE}x{SIZE}", "Model": "xl"}
    assert len(found["Lora hashes"].removeprefix("one: ")) == 12


def test_what_was_found(engine):
    concepts = [{"prompt": "old man", "phrase": "man"}]
    drawn = engine.draw(job_of(request={"concepts": concepts, "detector": "attention"}))
    assert 0 in [finding["concept"] for finding in drawn.found]
    assert f"OMG found: {json.dumps(json.dumps(drawn.found))}" in drawn.infotext


def test_a_scheduler_without_effect_is_told(engine):
    drawn = engine.draw(job_of(sampler="DDIM", scheduler="Karras"))
    assert ["Karras has no effect" in warning for warning in drawn.warnings] == [True]
    assert "Schedule type: Automatic" in drawn.infotext
    assert engine.draw(job_of(sampler="DDIM")).warnings == []


@pytest.mark.parametrize("name", ["more/other xl", "other xl", "other xl [0123456789]"])
def test_checkpoints_by_name(engine, name):
    assert "Model: other xl" in engine.draw(job_of(checkpoint=name)).infotext


def test_the_last_checkpoint_is_gone_before_the_next_one_comes(models):
    loaded: list[weakref.ref[torch.nn.Module]] = []
    alive: list[int] = []

    def load(path: Path, dtype: torch.dtype) -> Any:
        gc.collect()
        alive.append(sum(ref() is not None for ref in loaded))
        pipe = tiny_sd15() if path.name == "one five" else tiny_sdxl(depth=(1, 1, 1))
        loaded.append(weakref.ref(pipe.unet))
        return pipe

    engine = engine_of(models, load=load)
    pictures = [engine.draw(job_of(checkpoint=name, steps=1)).picture for name in ("", "", "one five", "xl")]
    assert alive == [0, 0, 0]
    assert same(pictures[0], pictures[3])


@pytest.mark.parametrize(("fields", "field", "words"), [
    ({"sampler": "Eulr a"}, "sampler", ["did you mean Euler a", "DPM++ 2M"]),
    ({"scheduler": "Karas"}, "scheduler", ["did you mean Karras", "SGM Uniform"]),
    ({"checkpoint": "other"}, "checkpoint", ["did you mean more/other xl?", "one five", "xl"]),
    ({"prompt": "a man<lora:on>"}, "prompt", ["on.safetensors", "did you mean <lora:one:1>?"]),
    ({"request": {"concepts": [left_and_right()[0], {**left_and_right()[1], "prompt": "woman<lora:twoo>"}]}},
     "request.concepts[1].prompt", ["twoo.safetensors", "<lora:people/two:1>"]),
    ({"negative_prompt": "<lora:one>"}, "negative_prompt", ["<lora:one>"]),
    ({"request": {"concepts": [{**left_and_right()[0], "negative_prompt": "<lora:one>"}]}},
     "request.concepts[0].negative_prompt", ["<lora:one>"]),
    ({"prompt": "<hypernet:x:1>"}, "prompt", ["hypernet"]),
    ({"request": {"concepts": left_and_right(), "detector": "attentoin"}}, "request.detector", ["attention"]),
    ({"request": {"concepts": [{**left_and_right()[0], "face": "iVBORw0KGgo="}]}}, "request.concepts[0].face",
     ["InstantID", "--face-adapter"]),
    ({"request": {"concepts": [{"prompt": "x", "phrase": "man"}], "detector": "yolo"}}, "request.detector",
     ["`yolo` needs", "in a folder that `detectors` names (--detectors)"]),
    ({"request": {"concepts": [{"prompt": "x", "where": {"outline": [0, 0, 1, 1]}}]}},
     "request.concepts[0].where.outline", ["--detectors"]),
    ({"request": {"concepts": left_and_right(), "detector": "attention", "detect": {"model": "x"}}},
     "request.detect.model", ["does not go by it"])])
def test_refusals_before_anything_is_loaded(models, loras, fields, field, words):
    engine = engine_of(models, loras, load=lambda *unused: pytest.fail("loads"))
    for ask in (engine.check, engine.draw):
        with pytest.raises(OMGError) as raised:
            ask(job_of(**fields))
        assert raised.value.field == field
        assert [word for word in words if word not in raised.value.message] == []


def test_what_a_job_says_of_a_request_that_is_off_is_not_looked_at(engine):
    off = {"concepts": [{"prompt": "x<lora:nowhere>", "where": {"box": [0, 0, 1, 1]}}], "enabled": False}
    engine.check(job_of(request=off))


def test_faces_are_taken_where_there_are_models(models):
    request = {"concepts": [{**left_and_right()[0], "face": "iVBORw0KGgo="}]}
    engine_of(models, faces=FaceModels("adapter.bin")).check(job_of(request=request))


def test_a_check_looks_for_each_file_once(models, loras, monkeypatch):
    engine = engine_of(models, loras)
    engine.check(job_of(request=two_concepts()))
    monkeypatch.setattr(Path, "rglob", lambda *unused: pytest.fail("looks again"))
    engine.check(job_of(request=two_concepts(), seed=8))


def test_a_detectors_files_are_looked_for_once_and_only_if_something_is_sought(models, monkeypatch):
    asked: list[Any] = []

    class Asked(AttentionDetector):
        def needs(self, options: Detect, models: Models) -> tuple[()]:
            asked.append(models.folders)
            return ()

    monkeypatch.setitem(DETECTORS, "asked", Asked())
    engine = engine_of(models, detectors=["there"])
    for concepts in (left_and_right(), *[[{"prompt": "x", "phrase": "man"}]] * 2):
        engine.check(job_of(request={"concepts": concepts, "detector": "asked"}))
    assert asked == [[Path("there")]]


def test_a_field_of_the_request_is_named_as_the_jobs(engine):
    with pytest.raises(OMGError) as raised:
        engine.draw(job_of(request={"concepts": [{"prompt": "x", "phrase": "zebra", "where": {"index": 9}}],
                                    "detector": "attention", "strict": True}))
    assert raised.value.field == "request.strict"


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("broken")])
def test_after_an_error_all_is_as_it_was(models, loras, monkeypatch, error):
    engine = engine_of(models, loras)
    job = job_of(request=two_concepts())
    before = engine.draw(job)
    omg = engine._omg
    assert omg is not None
    scheduler = omg.pipe.scheduler
    with monkeypatch.context() as patch, checked(omg.pipe):
        def fail(*unused: Any, **options: Any) -> Any:
            raise error

        patch.setattr(omg.pipe.vae, "decode", fail)
        with pytest.raises(OMGError if isinstance(error, torch.cuda.OutOfMemoryError) else RuntimeError) as raised:
            engine.draw(job)
    if isinstance(raised.value, OMGError):
        assert raised.value.field == "width"
        assert f"{SIZE}x{SIZE}" in raised.value.message
        assert "offload model" in raised.value.message
    assert omg.pipe.scheduler is scheduler
    assert same(engine.draw(job).picture, before.picture)


def test_no_memory_for_a_checkpoint(models):
    def load(path: Path, dtype: torch.dtype) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OMGError, match="xl does not fit") as raised:
        engine_of(models, load=load, offload="model").draw(job_of())
    assert raised.value.field == "checkpoint"
    assert "offload sequential" in raised.value.message
    assert "offload model" not in raised.value.message


@pytest.mark.parametrize(("options", "field"), [({"dtype": "float8"}, "dtype"), ({"offload": "disk"}, "offload")])
def test_unknown_options(models, options, field):
    with pytest.raises(OMGError) as raised:
        engine_of(models, **options)
    assert raised.value.field == field


def test_loras_used_longest_ago_are_dropped(models, loras, monkeypatch):
    monkeypatch.setattr("omg_ext.diffusers.engine._LORA_BUDGET", 1)
    engine = engine_of(models, loras)
    drawn: list[Drawn] = [engine.draw(job_of(prompt=f"{PROMPT}<lora:{name}>", steps=1)) for name in ("one", "two")]
    assert [path.stem for path in engine._files._read] == ["two"]
    assert same(engine.draw(job_of(prompt=f"{PROMPT}<lora:one>", steps=1)).picture, drawn[0].picture)
    assert not same(drawn[0].picture, drawn[1].picture)


def test_half_precision(models):
    loaded: list[torch.dtype] = []

    def load(path: Path, dtype: torch.dtype) -> Any:
        loaded.append(dtype)
        return tiny_sdxl(depth=(1, 1, 1)).to(dtype)

    engine_of(models, load=load, dtype="bfloat16").draw(job_of(steps=1))
    engine_of(models, load=load).draw(job_of(steps=1))
    assert loaded == [torch.bfloat16, torch.float32]


def test_waiting_in_host_memory_changes_nothing(engine, models, loras):
    """Models come and go by hooks of accelerate's beside those of a run, which decodes twice. Of single layers
    (``sequential``) accelerate does that on a GPU alone. Weights that lie elsewhere in memory may round otherwise."""
    job = job_of(request=two_concepts(show=["first_pass"]))
    waiting = engine_of(models, loras, offload="model")
    for _ in range(2):
        made, wanted = (np.asarray(each.draw(job).picture).astype(int) for each in (waiting, engine))
        assert np.abs(made - wanted).max() <= 1
        assert (made != wanted).mean() < 0.001


def test_a_checkpoint_whose_file_went_away(models, tmp_path):
    shutil.copytree(models / "xl", tmp_path / "gone")
    engine = engine_of(tmp_path, checkpoint=None)
    engine.check(job_of(checkpoint="gone"))
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(OMGError, match="there is no gone"):
        engine.check(job_of(checkpoint="gone"))
    with pytest.raises(OMGError, match="names none"):
        engine.check(job_of())
