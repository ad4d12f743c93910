"""Random walker with prior models: rough probabilities take the outlines of the picture.

L. Grady, "Multilabel random walker image segmentation using prior models", CVPR 2005.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix, diags, identity
from scipy.sparse.linalg import splu
from skimage.color import rgb2lab

FloatArray = npt.NDArray[np.float64]

REACH = 0.16
"""How far evidence spreads where there is no edge, as a share of the picture's longer side."""
EDGE = 8.0
"""A step of the mean square colour difference between neighbours conducts exp(-EDGE) of none."""
# neighbours never lose each other altogether, so that the equations stay well-conditioned
_LEAST = 1e-4


def walk(priors: FloatArray, picture: npt.NDArray[np.uint8]) -> FloatArray:
    """Probabilities of labels after a random walk that prefers not to cross edges of the picture.

    Args:
        priors: ``[labels, h, w]``, the labels' probabilities by other evidence; at each place they sum to 1.
        picture: uint8 ``[h, w, 3]``.

    Returns:
        ``[labels, h, w]``, summing to 1 at each place.
    """
    graph = _laplacian(rgb2lab(picture))
    pull = (REACH * max(picture.shape[:2])) ** -2
    system = csc_matrix(graph + pull * identity(graph.shape[0]))
    found = splu(system).solve(pull * priors.reshape(len(priors), -1).T)
    return np.asarray(found.T.reshape(priors.shape))


def _laplacian(colours: FloatArray) -> csc_matrix:
    """The Laplacian of the grid of pixels, from colours ``[h, w, channels]``: neighbours conduct by likeness."""
    height, width = colours.shape[:2]
    numbers = np.arange(height * width).reshape(height, width)
    steps = [np.diff(colours, axis=axis) for axis in (0, 1)]
    square = np.concatenate([(step ** 2).sum(2).ravel() for step in steps])
    conducts = np.exp(-EDGE * square / max(square.mean(), np.finfo(float).tiny)) + _LEAST
    ones = np.concatenate([numbers[1:].ravel(), numbers[:, 1:].ravel()])
    others = np.concatenate([numbers[:-1].ravel(), numbers[:, :-1].ravel()])
    both = np.concatenate([conducts, conducts]), (np.concatenate([ones, others]), np.concatenate([others, ones]))
    weights = csc_matrix(both, shape=(numbers.size, numbers.size))
    return csc_matrix(diags(np.asarray(weights.sum(axis=1)).ravel()) - weights)
