"""Faces: a concept drawn by a picture of a face, as InstantID does (Wang et al. 2024, arXiv 2401.07519)."""
