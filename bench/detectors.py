"""Time and memory of the detectors that have models of their own, at their real sizes.

Each runs in a process of its own, on one picture and two phrases. Weights are random, which neither figure depends on,
but for the small world's own YOLO. Those without models, `attention` and `contrast`, cost UNet work and are measured as
parts of whole runs.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import multiprocessing
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import torch

from bench.table import Row
from bench.timing import now
from omg_ext.comprehension import DETECTORS, FirstPicture, Models, Query
from omg_ext.request import Detect

T = TypeVar("T")
MIB = 2**20
SIDE = 1024
PHRASES = ("man", "dog")
_WORDS = ("a", "photo", "of", *PHRASES)


@dataclass(frozen=True)
class Case:
    """A detector with the models that it is measured with.

    Attributes:
        detector: its name.
        models: in words.
        package: that has to be there.
        write: puts the files into a folder.
    """

    detector: str
    models: str
    package: str
    write: Callable[[Path], None]


def write_owl_and_sam(folder: Path) -> None:
    """OWL-ViT B/32 and SAM ViT-B as transformers' defaults describe them, with a vocabulary of few words."""
    import transformers

    tokens = folder / "owlvit"
    tokens.mkdir()
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tokens / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (tokens / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(tokens / "vocab.json"), str(tokens / "merges.txt"),
                               model_max_length=16).save_pretrained(tokens)
    transformers.OwlViTForObjectDetection(transformers.OwlViTConfig()).save_pretrained(tokens)
    transformers.OwlViTImageProcessor().save_pretrained(tokens)
    transformers.SamModel(transformers.SamConfig()).save_pretrained(folder / "sam")
    transformers.SamImageProcessor().save_pretrained(folder / "sam")


def link_figures(folder: Path) -> None:
    """The small world's YOLO11n-seg."""
    from bench.world import weights

    (folder / weights.DETECTOR.name).symlink_to(weights.DETECTOR)


def write_person_yolo(folder: Path) -> None:
    """YOLO11s-seg with COCO's number of classes."""
    from ultralytics import YOLO

    net = YOLO("yolo11s-seg.yaml")
    net.model.names = {0: "man", 1: "dog", **{number: f"thing {number}" for number in range(2, 80)}}
    net.model.args = {"task": "segment", "imgsz": 640}
    net.save(str(folder / "yolo11s-seg.pt"))


def write_dino_and_sam(folder: Path) -> None:
    """Grounding DINO with Swin-T and SAM ViT-B, as their packages describe them."""
    from groundingdino.models import build_model
    from groundingdino.util.slconfig import SLConfig
    from segment_anything import sam_model_registry
    from transformers import BertConfig, BertModel, BertTokenizer

    bert = folder / "bert"
    bert.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *_WORDS]
    (bert / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizer(str(bert / "vocab.txt")).save_pretrained(bert)
    BertModel(BertConfig()).save_pretrained(bert)
    package = importlib.util.find_spec("groundingdino")
    assert package is not None
    assert package.submodule_search_locations is not None
    args = SLConfig.fromfile(str(Path(package.submodule_search_locations[0]) / "config/GroundingDINO_SwinT_OGC.py"))
    args.device, args.text_encoder_type = "cpu", str(bert)
    torch.save({"model": build_model(args).state_dict()}, folder / "groundingdino_swint_ogc.pth")
    torch.save(sam_model_registry["vit_b"]().state_dict(), folder / "sam_vit_b_01ec64.pth")


CASES = (
    Case("yolo", "YOLO11n-seg (the small world's)", "ultralytics", link_figures),
    Case("yolo", "YOLO11s-seg", "ultralytics", write_person_yolo),
    Case("transformers", "OWL-ViT B/32, SAM ViT-B", "transformers", write_owl_and_sam),
    Case("grounding-dino+sam", "Grounding DINO Swin-T, SAM ViT-B", "groundingdino", write_dino_and_sam),
)


def detectors(threads: int) -> list[Row]:
    """Each case's seconds to load and to look, its memory meanwhile and afterwards; of those that can run here."""
    rows = []
    for case in CASES:
        if importlib.util.find_spec(case.package) is None:
            print(f"{case.detector}: not measured, the package {case.package} is not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            _alone(case.write, Path(folder))
            seen = _alone(measure, case.detector, Path(folder), threads)
        title, note = f"Detector {case.detector}, {case.models}", f"{len(PHRASES)} phrases, {SIDE} x {SIDE}"
        rows += [Row(f"{title}: loading", seen.load, "s", note),
                 Row(f"{title}: looking", seen.look, "s", f"{note}, {seen.instances} instances"),
                 Row(f"{title}: memory at most", seen.most, "MiB", note),
                 Row(f"{title}: memory left afterwards", seen.left, "MiB", note)]
    return rows


def _alone(work: Callable[..., T], *args: Any) -> T:
    """The result of a function in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


@dataclass(frozen=True)
class Measured:
    """Seconds, and MiB more than before."""

    load: float
    look: float
    most: float
    left: float
    instances: int


def measure(name: str, folder: Path, threads: int) -> Measured:
    """One detector, in this process, which does nothing else."""
    torch.set_num_threads(threads)
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    models, options, detector = Models(folders=[folder]), Detect(threshold=0.0), DETECTORS[name]
    with detector.loaded(options, models):
        pass  # imports its packages, whose memory is not the detector's
    before = _memory()
    with _watched() as seen:
        start = now()
        with detector.loaded(options, models) as find:
            load, start = now() - start, now()
            found = find(FirstPicture.of(picture), [Query(phrase) for phrase in PHRASES])
            look = now() - start
            count = sum(map(len, found))
            del find, found  # they hold the models, and masks of the picture's size
    return Measured(load, look, max(seen) - before, _memory() - before, count)


def _memory() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / MIB


@contextmanager
def _watched() -> Iterator[list[float]]:
    """This process's memory from time to time."""
    process, seen, is_over = psutil.Process(), [0.0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.01):
            seen.append(process.memory_info().rss / MIB)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()
