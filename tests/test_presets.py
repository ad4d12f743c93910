"""Sets of concepts by name: which names are safe, what is kept, and that nothing is lost whoever writes."""

from __future__ import annotations

import json
import os
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from omg_ext.errors import OMGError
from omg_ext.request import Request, dump_request, parse_request
from omg_ext.webui.fields import NO_PREVIEW, PREVIEW, arg_fields
from omg_ext.webui.form import args_from_request, request_from_args
from omg_ext.webui.presets import (
    MAX_NAME,
    NoSuchPresetError,
    PresetExistsError,
    Presets,
    checked,
    checked_name,
    from_args,
    key_of,
    to_args,
)
from tests.test_webui_ui import requests

REQUEST: dict[str, Any] = {"concepts": [{"phrase": "man", "prompt": "a man <lora:m:1>"}], "blend_start": 0.2}
OTHER: dict[str, Any] = {"concepts": [{"phrase": "dog", "prompt": "a dog"}]}
DRAFT: dict[str, Any] = {"concepts": [{"phrase": "man", "prompt": ""}, {"phrase": "woman", "prompt": ""}]}
BAD_NAMES = ("", " ", "../x", "..", ".", "a/b", "a\\b", "C:x", "/etc/passwd", ".hidden", "dot.", "CON", "con.txt",
             "Aux", "com1", "lpt¹", "nul .x", "a\0b", "a\nb", "a*b", "a?b", "<b>", 'a"b', "a|b", "😀", "a\ud800",
             "\u202eabc", "x" * 300, "𝒜" * MAX_NAME, None, 3, ["x"])
GOOD_NAMES = ("a", "Ann & Ben", "Anna's (2)", "v1.2-final_", "Ärger", "日本 の 人", "console", "com10", "नमस्ते",
              "x" * MAX_NAME, "漢" * MAX_NAME)


def kept_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def kept(tmp_path: Path) -> Presets:
    return Presets(tmp_path / "presets")


# names

@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_bad_names_are_refused(kept: Presets, name: Any) -> None:
    for call in (lambda: kept.save(name, REQUEST), lambda: kept.load(name), lambda: kept.delete(name),
                 lambda: kept.rename(name, "x")):
        with pytest.raises(OMGError) as refused:
            call()
        assert refused.value.field == "name"
        assert not isinstance(refused.value, NoSuchPresetError)
    assert kept_in(kept.folder) == []


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_names_are_kept(kept: Presets, name: str) -> None:
    assert kept.save(name, REQUEST) == name
    assert kept.names() == [name]
    assert kept.load(name) == REQUEST
    assert kept_in(kept.folder) == [f"{name}.json"]


@given(st.text(max_size=80) | st.from_regex(r"[.\\/ a-z]{1,9}(con|NUL)?", fullmatch=True))
@example("e\u0301")
def test_a_name_is_refused_or_is_a_file_of_the_folder(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    kept = Presets(tmp_path_factory.getbasetemp() / "names" / "presets")
    outside = kept_in(kept.folder.parent)
    try:
        name = checked_name(text)
    except OMGError as refused:
        assert refused.field == "name"
        with pytest.raises(OMGError):
            kept.save(text, REQUEST)
        return
    assert name == checked_name(name) == unicodedata.normalize("NFC", name) == name.strip(" .")
    assert not set(name) & set('/\\:*?"<>|')
    assert name.isprintable()
    assert kept.save(text, REQUEST, overwrite=True) == name
    assert kept_in(kept.folder) == [f"{name}.json"]
    assert kept.load(unicodedata.normalize("NFD", text)) == REQUEST
    assert kept.delete(text) == name
    assert kept_in(kept.folder) == []
    assert kept_in(kept.folder.parent) in (outside, ["presets"])


@given(st.text(st.characters(categories=["L", "M", "N"]), min_size=1, max_size=8))
def test_names_that_differ_in_capitals_alone_are_one(text: str) -> None:
    for other in (text.upper(), text.lower(), text.casefold(), text.swapcase(), unicodedata.normalize("NFD", text)):
        assert key_of(other) == key_of(text)
    assert key_of(key_of(text)) == key_of(text)


# what is kept

@given(requests)
def test_what_is_kept_is_the_request(request: Request) -> None:
    wanted = {name: value for name, value in dump_request(request).items() if name not in ("preview", "enabled")}
    for form in (request, dump_request(request), json.dumps(dump_request(request))):
        assert checked(form) == wanted


@given(requests, st.integers(1, 4))
def test_the_page_shows_what_it_kept(request: Request, groups: int) -> None:
    """And keeps the same again, also where its fields cannot show it, and whether OMG is on or not."""
    data = checked(request)
    args = to_args(data, groups)
    assert from_args(args) == data
    names = [each.name for _, each in arg_fields(groups)]
    assert args[names.index("preview")] == NO_PREVIEW
    args[names.index("enabled")], args[names.index("preview")] = False, PREVIEW
    assert from_args(args) == data


@given(requests)
def test_a_loaded_preset_generates_what_was_saved(request: Request) -> None:
    data = {**dump_request(request), "preview": False}
    asked = parse_request(request_from_args(to_args(checked(data), 4)))
    assert asked == parse_request({name: value for name, value in data.items() if name != "enabled"})


def test_a_draft_has_empty_prompts(kept: Presets) -> None:
    kept.save("draft", DRAFT)
    assert kept.load("draft") == DRAFT
    args = to_args(DRAFT, 6)
    assert args[0] == ""  # the fields show all of it
    assert from_args(args) == DRAFT


@pytest.mark.parametrize(("data", "field"), [
    ({"concepts": []}, "concepts"), ({**REQUEST, "blend_start": 2}, "blend_start"), ({**REQUEST, "x": 1}, "x"),
    ({"concepts": [{"prompt": ""}]}, "concepts[0].phrase"), ("{", "request"), ("[" * 100_000, "request"),
    (None, "request"), ([REQUEST], "request"),
], ids=["none", "range", "unknown", "no phrase", "no JSON", "too deep", "null", "list"])
def test_what_no_draft_may_have_is_refused(kept: Presets, data: Any, field: str) -> None:
    kept.save("a", REQUEST)
    with pytest.raises(OMGError) as refused:
        kept.save("a", data, overwrite=True)
    assert refused.value.field == field
    assert kept.load("a") == REQUEST


def test_an_empty_accordion_is_refused() -> None:
    with pytest.raises(OMGError, match="Concept 1 is empty"):
        from_args([each.default for _, each in arg_fields(6)])


def test_a_place_that_is_not_given_is_refused_and_not_sought() -> None:
    """As only a preview does."""
    names = [f"{number}{each.name}" for number, each in arg_fields(2)]
    concept = {"phrase": "man", "prompt": "", "where": {"box": [0, 0, 1, 1]}}
    args = args_from_request(parse_request({"concepts": [concept], "preview": True}), 2)
    args[names.index("1where_text")] = ""
    assert args[names.index("0preview")] == PREVIEW
    with pytest.raises(OMGError, match=r"where\.box"):
        from_args(args)


def test_a_slot_that_is_no_request_is_refused() -> None:
    args = args_from_request(parse_request(REQUEST), 2)
    with pytest.raises(OMGError, match="not JSON"):
        from_args(["{", *args[1:]])


# saving, renaming, deleting

def test_nothing_is_overwritten_unasked(kept: Presets) -> None:
    kept.save("Beach", REQUEST)
    for name in ("Beach", "beach", " BEACH "):
        with pytest.raises(PresetExistsError, match='"Beach"'):
            kept.save(name, OTHER)
    assert kept.load("beach") == REQUEST
    assert kept.save("beach", OTHER, overwrite=True) == "Beach"
    assert kept.names() == ["Beach"]
    assert kept.load("Beach") == OTHER


def test_renaming(kept: Presets) -> None:
    kept.save("a", REQUEST)
    kept.save("b", OTHER)
    with pytest.raises(PresetExistsError):
        kept.rename("a", "B")
    with pytest.raises(NoSuchPresetError):
        kept.rename("c", "d")
    assert kept.rename("a", "c") == "c"
    assert kept.rename("c", "C") == "C"
    assert kept.rename("C", "C") == "C"
    assert kept.names() == ["b", "C"]
    assert (kept.load("b"), kept.load("c")) == (OTHER, REQUEST)


def test_two_files_that_a_user_made_stay_two(kept: Presets) -> None:
    """Where the file system tells capitals apart."""
    kept.save("a", REQUEST)
    (kept.folder / "A.json").write_text(json.dumps(OTHER))
    assert (kept.load("a"), kept.load("A")) == (REQUEST, OTHER)
    with pytest.raises(PresetExistsError):
        kept.rename("A", "a")
    kept.delete("A")
    assert kept.load("A") == REQUEST


def test_deleting(kept: Presets) -> None:
    kept.save("a", REQUEST)
    assert kept.delete("A") == "a"
    for call in (kept.delete, kept.load):
        with pytest.raises(NoSuchPresetError):
            call("a")
    assert kept.names() == []


def test_an_empty_folder_is_not_made_for_nothing(kept: Presets) -> None:
    assert kept.names() == []
    assert not kept.folder.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"concepts": [{"prompt": 3}]}'], ids=repr)
def test_a_damaged_file_is_said(kept: Presets, content: bytes) -> None:
    kept.save("a", REQUEST)
    (kept.folder / "broken.json").write_bytes(content)
    assert kept.names() == ["a", "broken"]
    with pytest.raises(OMGError, match='"broken"') as said:
        kept.load("broken")
    assert said.value.field == "name"
    kept.save("broken", OTHER, overwrite=True)
    assert kept.load("broken") == OTHER


def test_other_files_are_left_alone(kept: Presets) -> None:
    kept.save("a", REQUEST)
    for name in ("readme.txt", ".x.json", "a*.json", ".0.part"):
        (kept.folder / name).write_text("{}")
    (kept.folder / "folder.json").mkdir()
    assert kept.names() == ["a"]


def test_a_full_disk_costs_nothing_that_was_there(kept: Presets, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.save("a", REQUEST)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for name, overwrite in (("a", True), ("b", False)):
        with pytest.raises(OMGError, match="No space left"):
            kept.save(name, OTHER, overwrite=overwrite)
    with pytest.raises(OMGError, match="No space left"):
        kept.rename("a", "c")
    monkeypatch.undo()
    assert kept_in(kept.folder) == ["a.json"]
    assert kept.load("a") == REQUEST


# two writers

def test_of_many_that_save_one_new_name_one_does(kept: Presets) -> None:
    """Threads of one web UI, and web UIs that share a folder and know nothing of each other."""
    others = [kept, kept, Presets(kept.folder), Presets(kept.folder)]
    for round_ in range(30):
        start = threading.Barrier(len(others))

        def save(index: int, start: threading.Barrier = start, name: str = f"preset {round_}") -> int | None:
            start.wait()
            try:
                others[index].save(name, {**REQUEST, "blend_start": index / 10})
            except PresetExistsError:
                return None
            return index

        with ThreadPoolExecutor(len(others)) as pool:
            won = [index for index in pool.map(save, range(len(others))) if index is not None]
        assert len(won) == 1
        assert kept.load(f"preset {round_}") == {**REQUEST, "blend_start": won[0] / 10}
    assert len(kept_in(kept.folder)) == 30


def test_a_reader_never_sees_half_a_file(kept: Presets) -> None:
    large = [{"concepts": [{"phrase": letter * 1_000_000, "prompt": "x"}]} for letter in "ab"]
    kept.save("a", large[0])
    over = threading.Event()

    def write() -> None:
        for count in range(20):
            Presets(kept.folder).save("a", large[count % 2], overwrite=True)
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not over.is_set():
        assert kept.load("a") in large
        seen += 1
    writer.join()
    assert seen > 1
