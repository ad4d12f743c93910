"""``omg draw`` as it is typed: exit statuses, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omg_ext.cli import workers
from omg_ext.cli.main import INTERRUPTED, main
from omg_ext.jobs.job import Job
from omg_ext.jobs.threads import Threads
from tests.jobs.fakes import FakeEngine, a_list

REQUEST = {"concepts": [{"phrase": "man", "prompt": "a man"}], "blend_start": 0.4}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """What the command draws with; ``options`` are those it asked for."""
    found = FakeEngine()

    def made(options: dict[str, Any]) -> FakeEngine:
        found.options = options
        return found

    monkeypatch.setattr(workers, "_diffusers", made)
    return found


def draw(*arguments: object) -> int:
    return main(["draw", *map(str, arguments)])


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png"))


def test_a_list_becomes_pictures_and_is_done_then(engine, tmp_path, capsys):
    path, out = a_list(tmp_path, [{"prompt": "a", "seeds": "0-2"}]), tmp_path / "out"
    assert draw(path, "--out", out) == 0
    assert len(pictures(out)) == 3
    assert "3 pictures drawn" in capsys.readouterr().err
    assert draw(path, "--out", out) == 0
    assert len(engine.drawn) == 3
    assert "3 pictures; 3 there already" in capsys.readouterr().err


def test_failures_are_told_and_the_status_says_so(engine, tmp_path, capsys):
    path = a_list(tmp_path, [{"prompt": "a"}, {"prompt": "impossible", "name": "x"}, {"prompt": "crash"}])
    assert draw(path, "--out", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "failed: x-" in said
    assert "prompt: impossible" in said
    assert "1 picture drawn" in said
    assert "2 failed" in said


def test_lines_at_fault_are_named_and_nothing_is_drawn(engine, tmp_path, capsys):
    path = a_list(tmp_path, [{"prompt": "a"}, {"prompt": "a", "stepz": 3}, {"prompt": "refused"}])
    assert draw(path, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert f"{path}, line 2: stepz: unknown field; did you mean `steps`?" in said
    assert f"{path}, line 3: prompt: refused" in said
    assert "2 lines cannot be drawn; nothing was drawn" in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_and_writes_nothing(engine, tmp_path, capsys):
    path = a_list(tmp_path, [{"prompt": "a", "steps": 10, "seeds": "0-2"}])
    assert draw(path, "--out", tmp_path / "out", "--dry-run") == 0
    assert "3 pictures to draw, about 60 rows of the model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    draw(a_list(tmp_path, [{"prompt": "a", "steps": 10}], "one.jsonl"), "--out", tmp_path / "out")
    capsys.readouterr()
    assert draw(path, "--out", tmp_path / "out", "--dry-run") == 0
    said = capsys.readouterr().err
    assert "2 pictures to draw" in said
    assert "seconds for one worker" in said
    assert len(engine.drawn) == 1


def test_settings_reach_jobs(engine, tmp_path):
    path = a_list(tmp_path, [{"prompt": "a"}, {"prompt": "b", "request": REQUEST, "steps": 7}])
    assert draw(path, "--out", tmp_path / "out", "--set", "steps=20", "--set", "sampler=Euler a", "--set",
                "request.predict=separate", "--set", "request.blend_start=0.2") == 0
    first, second = engine.drawn
    assert (first.steps, first.sampler, first.request) == (20, "Euler a", None)
    assert (second.steps, second.request.predict, second.request.blend_start) == (7, "separate", 0.4)


def test_options_reach_the_engine(engine, tmp_path):
    path = a_list(tmp_path, [{"prompt": "a"}])
    draw(path, "--out", tmp_path / "out", "--checkpoint", "xl", "--loras", "loras", "--dtype", "bfloat16", "--device",
         "cuda:1", "--offload", "model", "--detectors", "d", "e", "--face-adapter", "ip", "--face-reader", "antelopev2")
    assert {name: engine.options[name] for name in ("checkpoint", "loras", "dtype", "device", "offload")} == {
        "checkpoint": "xl", "loras": "loras", "dtype": "bfloat16", "device": "cuda:1", "offload": "model"}
    assert engine.options["detectors"] == [Path("d"), Path("e")]
    assert engine.options["faces"] == {"adapter": "ip", "identitynet": None, "analysis": "antelopev2"}


@pytest.mark.parametrize(("arguments", "said"), [
    (["--share", "0/2"], "1/N to N/N"), (["--share", "2"], "1/N to N/N"), (["--set", "steps"], "FIELD=VALUE"),
    (["--webui", "http://x", "--ray"], "not allowed with")])
def test_arguments_that_make_no_sense_are_refused(engine, tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit) as caught:
        draw(a_list(tmp_path, []), "--out", tmp_path / "out", *arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "said"), [
    (["--set", "steps=many"], "steps: 'many' cannot be read"), (["--identitynet", "x"], "face-adapter"),
    (["--webui", "nonsense"], "webui"), (["--webui", "http://127.0.0.1:9"], "webui"),
    (["--workers", "2"], "workers: --workers does nothing without --ray"), (["--shared"], "shared: --shared does"),
    *((["--webui", "http://127.0.0.1:9", option, value], f"{option} does nothing with --webui") for option, value in (
        ("--checkpoint", "x"), ("--checkpoints", "x"), ("--config", "x"), ("--loras", "x"), ("--detectors", "x"),
        ("--face-adapter", "x"), ("--identitynet", "x"), ("--face-reader", "x"), ("--dtype", "float16"),
        ("--device", "cpu"), ("--offload", "model")))])
def test_what_cannot_be_had_is_refused_by_name(tmp_path, capsys, arguments, said):
    assert draw(a_list(tmp_path, [{"prompt": "a"}]), "--out", tmp_path / "out", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_shares_are_the_whole_list(engine, tmp_path):
    path, out = a_list(tmp_path, [{"prompt": "a", "seeds": "0-19"}]), tmp_path / "out"
    for share in ("1/3", "2/3", "3/3"):
        assert draw(path, "--out", out, "--share", share) == 0
    assert len(pictures(out)) == len(engine.drawn) == 20


def test_a_run_that_is_broken_off_says_what_it_did(engine, tmp_path, capsys, monkeypatch):
    path, out = a_list(tmp_path, [{"prompt": "a", "seeds": "0-9"}]), tmp_path / "out"
    wait = Threads.wait

    def interrupted(pool: Any) -> Any:
        if len(engine.drawn) == 4:
            raise KeyboardInterrupt
        return wait(pool)

    monkeypatch.setattr(Threads, "wait", interrupted)
    assert draw(path, "--out", out) == INTERRUPTED
    drawn = len(pictures(out))
    assert 3 <= drawn <= 4
    assert f"{drawn} pictures drawn" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(workers, "_diffusers", lambda options: engine)
    assert draw(path, "--out", out) == 0
    assert len(pictures(out)) == 10
    lines = [json.loads(line) for part in (out / "manifest").iterdir() for line in part.read_text().splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 10


def test_an_empty_list_is_no_error(engine, tmp_path, capsys):
    assert draw(a_list(tmp_path, []), "--out", tmp_path / "out") == 0
    assert "0 pictures" in capsys.readouterr().err


def test_the_engine_is_asked_about_each_job(engine, tmp_path):
    asked: list[Job] = []
    engine.check = asked.append
    draw(a_list(tmp_path, [{"prompt": "a", "seeds": "0-4"}]), "--out", tmp_path / "out", "--dry-run")
    assert [job.seed for job in asked] == list(range(5))
