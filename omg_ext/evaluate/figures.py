"""What is measured of a picture: names, meanings, and which models it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CLIP, FACES, DETECTOR = "--clip", "--face-reader", "regions"


@dataclass(frozen=True)
class Figure:
    """Something that is measured.

    Attributes:
        title: of its column.
        meaning: its equation and range, in words.
        needs: options of the command, or fields of the spec.
    """

    title: str
    meaning: str
    needs: tuple[str, ...] = ()


FIGURES: Mapping[str, Figure] = {
    "text": Figure("Text Alignment", "cosine between CLIP's embeddings of picture and prompt, the prompt in class "
                                     "words; -1 to 1", (CLIP,)),
    "clipscore": Figure("CLIPScore", "2.5 max(Text Alignment, 0), as the CLIPScore of arXiv 2104.08718; 0 to 2.5",
                        (CLIP,)),
    "identity": Figure("Identity Alignment", "of characters: cosine between ArcFace's embedding of the face that is "
                                             "most alike and the mean of the references' directions; of pictures with "
                                             "a face; -1 to 1", (FACES,)),
    "detected": Figure("detected", "of characters: share of pictures with a face whose cosine is at least the "
                                   "threshold; 0 to 1", (FACES,)),
    "image": Figure("Image Alignment", "of objects: mean cosine between CLIP's embeddings of the picture and of each "
                                       "reference; -1 to 1", (CLIP,)),
    "ida": Figure("IDA", "Identity Alignment of the face in the concept's region, of regions with a face; -1 to 1",
                  (FACES, DETECTOR)),
    "ida_detected": Figure("detected in region", "share of pictures with a face in the concept's region whose cosine "
                                                 "is at least the threshold; 0 to 1", (FACES, DETECTOR)),
    "ima": Figure("IMA", "Image Alignment of the box around the concept's region; -1 to 1", (CLIP, DETECTOR)),
    "found": Figure("found", "share of the concepts that the detector finds in the result; 0 to 1", (DETECTOR,)),
    "layout": Figure("layout", "intersection over union of the concept's regions in the first pass and in the result, "
                               "0 if it is gone; 0 to 1", (DETECTOR,)),
    "background": Figure("background", "mean change of the first pass away from its regions; 0 to 255 grey levels",
                         (DETECTOR,)),
}
"""By name, in the order of columns."""
