"""Faces: whose they are in reference pictures, where they are in the first one (InstantID, arXiv 2401.07519)."""

from .analysis import Face, FaceAnalyser, loaded
from .files import NAME, needs
from .keypoints import draw
from .places import in_masks
from .reference import choose, decoded, mean_embedding, reference

__all__ = ["NAME", "Face", "FaceAnalyser", "choose", "decoded", "draw", "in_masks", "loaded", "mean_embedding",
           "needs", "reference"]
