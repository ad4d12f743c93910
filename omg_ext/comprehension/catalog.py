"""Model files that can be downloaded: for each detector, and for reading faces, the least that makes it run.

Sizes and checksums are those that several independent sources give; where there are none, they are left out. Sizes that
end in six zeros are rounded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_HUB = "https://huggingface.co"
_ASSETS = "https://github.com/ultralytics/assets/releases/download"
# the makers' own release is gone
_ANTELOPE = f"{_HUB}/DIAMONIK7777/antelopev2/resolve/main"
# tells of the licence: no commercial use
_INSIGHTFACE = "https://github.com/deepinsight/insightface/tree/master/model_zoo"
_INSTANTID = f"{_HUB}/InstantX/InstantID"


@dataclass(frozen=True)
class Download:
    """A file, with where it comes from and where it goes.

    Attributes:
        name: of the file.
        url: of the file itself.
        page: that tells people about it, its licence included.
        folder: below the folder of OMG's models; empty is that folder itself.
        size: in bytes; 0 is unknown.
        sha256: in hexadecimal; None is unknown.
    """

    name: str
    url: str
    page: str
    folder: str = ""
    size: int = 0
    sha256: str | None = None

    @property
    def path(self) -> str:
        """Where it goes, below the folder of OMG's models."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


def _hub(repository: str, *files: str) -> tuple[Download, ...]:
    """Files of a model on the hub, which go into a folder of the model's name.

    ``config.json`` is the last: with it the folder counts as there.
    """
    page, folder = f"{_HUB}/{repository}", repository.rpartition("/")[2]
    return tuple(Download(name, f"{page}/resolve/main/{name}", page, folder) for name in files)


_YOLOE = "https://docs.ultralytics.com/models/yoloe"
_OWL = _hub("google/owlvit-base-patch32", "model.safetensors", "preprocessor_config.json", "tokenizer_config.json",
            "special_tokens_map.json", "vocab.json", "merges.txt", "config.json")
_SAM = _hub("facebook/sam-vit-base", "model.safetensors", "preprocessor_config.json", "config.json")
# without its weights, which Grounding DINO's file has too
_BERT = _hub("google-bert/bert-base-uncased", "vocab.txt", "tokenizer_config.json", "tokenizer.json", "config.json")

CATALOG: dict[str, tuple[Download, ...]] = {
    "owlvit": _OWL,
    "sam": (replace(_SAM[0], size=375_000_000), *_SAM[1:]),
    "yoloe": (Download("yoloe-11s-seg.pt", f"{_ASSETS}/v8.3.0/yoloe-11s-seg.pt", _YOLOE),),
    "mobile-sam": (Download("mobile_sam.pt", f"{_ASSETS}/v8.3.0/mobile_sam.pt",
                            "https://docs.ultralytics.com/models/mobile-sam"),),
    "mobileclip": (Download("mobileclip_blt.ts", f"{_ASSETS}/v8.3.0/mobileclip_blt.ts", _YOLOE, size=572_000_000),),
    "mobileclip2": (Download("mobileclip2_b.ts", f"{_ASSETS}/v8.4.0/mobileclip2_b.ts", _YOLOE),),
    "clip": (Download(
        "ViT-B-32.pt", "https://openaipublic.azureedge.net/clip/models/"
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        "https://github.com/openai/CLIP", size=354_000_000,
        sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),),
    "dino": (Download(
        "groundingdino_swint_ogc.pth", "https://github.com/IDEA-Research/GroundingDINO/releases/download/"
        "v0.1.0-alpha/groundingdino_swint_ogc.pth", "https://github.com/IDEA-Research/GroundingDINO",
        size=693_997_677, sha256="3b3ca2563c77c69f651d7bd133e97139c186df06231157a64c507099c52bc799"),),
    "bert": _BERT,
    "segment-anything": (Download(
        "sam_vit_b_01ec64.pth", "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
        "https://github.com/facebookresearch/segment-anything", size=375_042_383,
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),),
    "scrfd": (Download(
        "scrfd_10g_bnkps.onnx", f"{_ANTELOPE}/scrfd_10g_bnkps.onnx", _INSIGHTFACE, "antelopev2", 16_923_827,
        "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"),),
    "glintr100": (Download(
        "glintr100.onnx", f"{_ANTELOPE}/glintr100.onnx", _INSIGHTFACE, "antelopev2", 260_665_334,
        "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf"),),
    "instantid-adapter": (Download(
        "ip-adapter.bin", f"{_INSTANTID}/resolve/main/ip-adapter.bin", _INSTANTID, "InstantID", 1_691_134_141,
        "02b3618e36d803784166660520098089a81388e61a93ef8002aa79a5b1c546e1"),),
    "identitynet": (Download(
        "diffusion_pytorch_model.safetensors",
        f"{_INSTANTID}/resolve/main/ControlNetModel/diffusion_pytorch_model.safetensors", _INSTANTID,
        "InstantID/ControlNetModel", 2_502_139_136,
        "c8127be9f174101ebdafee9964d856b49b634435cf6daa396d3f593cf0bbbb05"),),
}
"""By what they are: the files that are needed together, the one to look for first."""
