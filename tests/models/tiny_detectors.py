"""Tiny detectors and segmenters with random weights, in the files and folders that the real ones come in.

Their shapes are the real ones' but for widths and depths. What they see is noise: tests that need them to see put eyes
in (:class:`Eyes`), at the lowest place, so that all that the packages do before and after the network is real.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omg_ext.comprehension.quiet import changed

# what stands in the scene: fractions x0, y0, x1, y1, and colours that stay far apart in any normalisation
THINGS: Mapping[str, tuple[tuple[float, float, float, float], tuple[int, int, int]]] = {
    "man": ((0.125, 0.2, 0.375, 0.8), (250, 20, 20)), "dog": ((0.5, 0.5, 0.9375, 0.9), (20, 20, 250))}
HEIGHT, WIDTH = 160, 256
_GREY = 120
# vocabulary of the text encoders
_WORDS = ("a", "photo", "of", "man", "dog", "woman", "robot", "old", ".")


def scene() -> npt.NDArray[np.uint8]:
    """A red man and a blue dog on grey, uint8 ``[160, 256, 3]``."""
    picture = np.full((HEIGHT, WIDTH, 3), _GREY, np.uint8)
    for name, (_, colour) in THINGS.items():
        picture[place(name)] = colour
    return picture


def place(name: str) -> npt.NDArray[np.bool_]:
    """Where it is in the scene, bool ``[160, 256]``."""
    x0, y0, x1, y1 = THINGS[name][0]
    where = np.zeros((HEIGHT, WIDTH), np.bool_)
    where[round(y0 * HEIGHT):round(y1 * HEIGHT), round(x0 * WIDTH):round(x1 * WIDTH)] = True
    return where


class Eyes:
    """Sees the scene's things by colour, in pictures as networks get them.

    Args:
        pixels: ``[3, h, w]``, RGB, in any normalisation that is one scale and shift per channel.
    """

    def __init__(self, pixels: Tensor) -> None:
        self.red_over_blue = (pixels[0] - pixels[2]).float().cpu()

    def sees(self, name: str) -> Tensor:
        """Where a man or a dog is, bool ``[h, w]``; nothing else is seen."""
        most = self.red_over_blue.abs().max() / 2
        return {"man": self.red_over_blue > most, "dog": self.red_over_blue < -most}.get(
            name, torch.zeros_like(self.red_over_blue, dtype=torch.bool))

    def box(self, name: str) -> Tensor:
        """Around it: centre x, y, width and height in pixels ``[4]``; zeros if it is not there."""
        rows, columns = (self.sees(name).any(axis).nonzero()[:, 0] for axis in (1, 0))
        if not len(rows):
            return torch.zeros(4)
        low, high = torch.stack([columns[0], rows[0]]), torch.stack([columns[-1], rows[-1]]) + 1
        return torch.cat([(low + high) / 2, (high - low).float()])


def write_owl(folder: Path, kind: str = "owlvit") -> Path:
    """A folder of OWL-ViT, or of ``owlv2``: 32 x 32 pixels, patches of 8."""
    import transformers

    name = {"owlvit": "OwlViT", "owlv2": "Owlv2"}[kind]
    config_class, model_class, processor_class = (
        getattr(transformers, f"{name}{part}") for part in ("Config", "ForObjectDetection", "ImageProcessor"))
    folder.mkdir(parents=True)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
                             "num_attention_heads": 2}
    write_clip_tokens(folder)
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    tokenizer.save_pretrained(folder)
    config = config_class(
        text_config={**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 16,
                     "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
                     "pad_token_id": tokenizer.pad_token_id},
        vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=32)
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder, safe_serialization=True)
    processor_class(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_clip_tokens(folder: Path) -> None:
    """CLIP's vocabulary files, with letters and the words above."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in _WORDS:
        for end in range(2, len(word) + 1):
            left, right = word[:end - 1], word[end - 1] + ("</w>" if end == len(word) else "")
            merges.append(f"{left} {right}")
            pieces.append(left + right)
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(dict.fromkeys(merges)) + "\n")


def write_sam(folder: Path) -> Path:
    """A folder of SAM: 64 x 64 pixels, patches of 16; masks of 16 x 16."""
    from transformers import SamConfig, SamImageProcessor, SamModel

    config = SamConfig(
        vision_config={"hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": 64, "patch_size": 16, "mlp_dim": 32, "window_size": 2, "num_pos_feats": 8,
                       "global_attn_indexes": [1]},
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                             "iou_head_hidden_dim": 16})
    torch.manual_seed(0)
    SamModel(config).save_pretrained(folder, safe_serialization=True)
    SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def write_sam2(folder: Path, kind: str = "sam2") -> Path:
    """A folder of SAM 2, or of ``sam2_video`` as the real ones are: 64 x 64 pixels; masks of 16 x 16."""
    import transformers

    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[8, 4, 4, 2], global_attention_blocks=[3])
    vision = {"backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 16,
              "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
    parts: dict[str, Any] = {
        "vision_config": transformers.Sam2VisionConfig(**vision),
        "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                                "iou_head_hidden_dim": 16}}
    torch.manual_seed(0)
    if kind == "sam2":
        transformers.Sam2Model(transformers.Sam2Config(**parts)).save_pretrained(folder)
    else:
        config = transformers.Sam2VideoConfig(
            **parts, image_size=64, memory_attention_hidden_size=16, memory_attention_num_layers=1,
            memory_attention_num_attention_heads=1, memory_attention_feed_forward_hidden_size=16,
            memory_attention_rope_feat_sizes=[4, 4], memory_encoder_hidden_size=16, memory_encoder_output_channels=8,
            memory_fuser_embed_dim=16, memory_fuser_intermediate_dim=16, mask_downsampler_embed_dim=16)
        transformers.Sam2VideoModel(config).save_pretrained(folder)
    return folder


def write_sam3(folder: Path, kind: str = "sam3") -> Path:
    """A folder of SAM 3, or of ``sam3_video`` as the real one is: 56 x 56 pixels, patches of 14; masks of 16 x 16."""
    import transformers

    folder.mkdir(parents=True)
    write_clip_tokens(folder)
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=32)
    tokenizer.save_pretrained(folder)
    head: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "num_layers": 1, "intermediate_size": 16}
    vision = {
        "backbone_config": {"model_type": "sam3_vit_model", "hidden_size": 16, "intermediate_size": 16,
                            "image_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2, "window_size": 2,
                            "global_attn_indexes": [1], "pretrain_image_size": 28},
        "fpn_hidden_size": 16, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
    config = transformers.Sam3Config(
        vision_config=vision,
        text_config={"model_type": "clip_text_model", "vocab_size": len(tokenizer), "hidden_size": 16,
                     "intermediate_size": 16, "projection_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "max_position_embeddings": 32, "bos_token_id": tokenizer.bos_token_id,
                     "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id},
        geometry_encoder_config=head, detr_encoder_config=head, detr_decoder_config={**head, "num_queries": 10},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2})
    torch.manual_seed(0)
    if kind == "sam3":
        transformers.Sam3Model(config).save_pretrained(folder)
    else:
        # of the whole that finds and tracks, the part that finds
        net = transformers.Sam3Model(config)
        weights = {f"detector_model.{name}": value for name, value in net.state_dict().items()}
        net.save_pretrained(folder, state_dict=weights)
        described = {"model_type": kind, "detector_config": config.to_dict()}
        (folder / "config.json").write_text(json.dumps(described))
    return folder


def write_grounding_dino(folder: Path) -> Path:
    """A folder of transformers' Grounding DINO, with a small Swin and a small BERT."""
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        SwinConfig,
    )

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(bert_words()) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    swin = SwinConfig(embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
                      out_features=["stage2", "stage3", "stage4"])
    bert = BertConfig(vocab_size=len(bert_words()), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                      intermediate_size=32)
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=bert, d_model=32, encoder_layers=1, decoder_layers=2, num_queries=10,
        encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2)
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).save_pretrained(folder, safe_serialization=True)
    GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return folder


def bert_words() -> list[str]:
    """A vocabulary of BERT."""
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]


def write_yolo(path: Path, names: tuple[str, ...] = ("man", "dog"), kind: str = "yolo11n-seg", size: int = 128) -> Path:
    """A nano of ultralytics with classes of its own, as its trainer saves them."""
    from ultralytics import YOLO

    name = kind.replace("yolo11n", "yolo11")
    net = _yolo(f"{name}.yaml", len(names))
    net.names = dict(enumerate(names))
    task = "segment" if kind.endswith("-seg") else "detect"
    saved = YOLO(f"{kind}.yaml", task=task)
    saved.model, net.task, net.args = net, task, {"task": task, "imgsz": size}
    path.parent.mkdir(parents=True, exist_ok=True)
    saved.save(str(path))
    return path


def _yolo(recipe: str, classes: int) -> Any:
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel, yaml_model_load

    build = SegmentationModel if "-seg" in recipe else DetectionModel
    torch.manual_seed(0)
    scales = {"t": [0.33, 0.0625, 1024]}
    return build({**yaml_model_load(recipe), "scales": scales, "scale": "t"}, nc=classes, verbose=False)


def write_yoloe(path: Path) -> Path:
    """A YOLOE-11 for boxes and masks of any phrase."""
    from ultralytics import YOLO
    from ultralytics.nn.tasks import YOLOESegModel, yaml_model_load

    torch.manual_seed(0)
    recipe = {**yaml_model_load("yoloe-11s-seg.yaml"), "scales": {"t": [0.33, 0.0625, 1024]}, "scale": "t"}
    net = YOLOESegModel(recipe, nc=2, verbose=False)
    # untrained, its layers let next to nothing through: what is compared with the phrase would vanish in its bias
    for layer in net.eval().modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
            layer.train()
    for head in net.model[-1].cv4:
        head.logit_scale.data.fill_(-8.0)  # far from certainty
        head.bias.data.fill_(-1.0)
    with torch.no_grad():
        net(torch.rand(2, 3, 128, 128))
    return _save_open(YOLO("yoloe-11s-seg.yaml"), net, "segment", path)


def write_yolo_world(path: Path) -> Path:
    """A YOLO-World v2 for boxes of any phrase."""
    from ultralytics import YOLO
    from ultralytics.nn.tasks import WorldModel, yaml_model_load

    torch.manual_seed(0)
    recipe = {**yaml_model_load("yolov8s-worldv2.yaml"), "scales": {"t": [0.33, 0.0625, 1024]}, "scale": "t"}
    return _save_open(YOLO("yolov8s-worldv2.yaml"), WorldModel(recipe, nc=2, verbose=False), "detect", path)


def _save_open(saved: Any, net: Any, task: str, path: Path) -> Path:
    net.names, net.task, net.args = {0: "first", 1: "second"}, task, {"task": task, "imgsz": 128}
    saved.model = net
    path.parent.mkdir(parents=True, exist_ok=True)
    saved.save(str(path))
    return path


SAM3_SIDE = 112
"""Of the square that :func:`small_sam3` sees, in pixels."""


def small_sam3() -> dict[str, Any]:
    """Of the package's recipe of SAM 3 the parts that are smaller here, by their names in its module."""
    build = importlib.import_module("ultralytics.models.sam.build_sam3")

    def smaller(name: str, **sizes: Any) -> Any:
        whole = getattr(build, name)
        return lambda *args, **kwargs: whole(*args, **{**kwargs, **sizes})

    return {
        "ViT": smaller("ViT", img_size=SAM3_SIDE, pretrain_img_size=56, embed_dim=32, depth=2, num_heads=2,
                       global_att_blocks=(1,), window_size=4),
        "VETextEncoder": smaller("VETextEncoder", width=32, heads=2, layers=1),
        **{name: smaller(name, num_layers=1) for name in ("TransformerEncoderFusion", "TransformerDecoder",
                                                          "SequenceGeometryEncoder")}}


def write_ultralytics_sam3(path: Path) -> Path:
    """A ``sam3.pt`` as its authors save it, of the parts that find; to be called where :func:`small_sam3` is in."""
    build = importlib.import_module("ultralytics.models.sam.build_sam3")
    torch.manual_seed(0)
    with changed(build, "_load_checkpoint", lambda net, *_, **__: net):
        net = build.build_sam3_image_model("")
    for name, parameter in net.named_parameters():
        if name.endswith(("positional_embedding", "text_projection")):  # the package leaves them as memory was
            torch.nn.init.normal_(parameter, std=0.02)
    torch.save({f"detector.{name}": value for name, value in net.state_dict().items()}, path)
    return path


def write_mobile_sam(path: Path) -> Path:
    """A MobileSAM of ultralytics, which is small as it is; sure of all that it finds, as it is untrained."""
    from ultralytics.models.sam.build import build_mobile_sam

    torch.manual_seed(0)
    sam = build_mobile_sam()
    sam.mask_decoder.iou_prediction_head.layers[-1].bias.data.fill_(3.0)
    torch.save(sam.state_dict(), path)
    return path


class TextTower(torch.nn.Module):
    """A text encoder, ``tokens int [N, 77] -> [N, 512]``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(49408, 512)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens).mean(dim=1)


def write_text_encoder(path: Path) -> Path:
    """What YOLOE reads phrases with, as TorchScript."""
    torch.jit.script(TextTower()).save(str(path))
    return path


def write_clip(path: Path) -> Path:
    """OpenAI's CLIP with the width of ViT-B/32's text features, which YOLO-World reads phrases with.

    It is TorchScript, as OpenAI's files are: some versions of the package read nothing else.
    """
    from clip.model import CLIP

    torch.manual_seed(0)
    model = CLIP(512, 32, 1, 64, 16, 77, 49408, 64, 1, 1).eval()
    torch.jit.save(torch.jit.trace(model, (torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long))), path)
    return path


def write_segment_anything(path: Path) -> Path:
    """A SAM of the package segment-anything with an encoder of two layers; a SAM's full 1024 x 1024 pixels."""
    from segment_anything.build_sam import _build_sam

    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(_build_sam(32, 2, 2, [1]).state_dict(), path)
    return path


def write_bert(folder: Path) -> Path:
    """A folder of BERT without weights."""
    from transformers import BertConfig, BertTokenizer

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(bert_words()) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BertConfig(vocab_size=len(bert_words()), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
               intermediate_size=32).save_pretrained(folder)
    return folder


def small_dino(args: Any) -> Any:
    """The description of a Grounding DINO of groundingdino-py with few layers; its Swin-T stays whole."""
    args.enc_layers = args.dec_layers = 1
    args.nheads, args.dim_feedforward, args.num_queries = 4, 32, 20  # its width stands in the package's code too
    return args


def write_dino(path: Path, bert: Path) -> Path:
    """What :func:`small_dino` describes."""
    import groundingdino
    from groundingdino.models import build_model
    from groundingdino.util.slconfig import SLConfig
    from transformers import BertConfig, BertModel

    args = small_dino(SLConfig.fromfile(str(Path(groundingdino.__file__).parent / "config/GroundingDINO_SwinT_OGC.py")))
    args.device, args.text_encoder_type = "cpu", str(bert)
    BertModel(BertConfig.from_pretrained(bert)).save_pretrained(bert)  # the package wants weights
    torch.manual_seed(0)
    net = build_model(args)
    for file in bert.glob("*.bin"):
        file.unlink()
    torch.save({"model": {f"module.{name}": value for name, value in net.state_dict().items()}}, path)
    return path
