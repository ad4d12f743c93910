"""Boxes become instances: thresholds, doubles, shapes."""

from __future__ import annotations

import numpy as np
import pytest

from omg_ext.comprehension.boxes import MOST, Boxes, box_shapes, from_centres, instances, shapes


def boxes(*rows: tuple[float, float, float, float, float]) -> Boxes:
    values = np.array(rows, np.float32).reshape(-1, 5)
    return Boxes(values[:, :4], values[:, 4])


def test_the_surest_first_and_no_doubles():
    found = boxes((0, 0, 10, 10, 0.5), (0, 0, 10, 9, 0.9), (0, 0, 10, 4, 0.7), (20, 20, 30, 30, 0.6)).best(0.1, 40, 40)
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.6])


def test_within_the_picture():
    found = boxes((-5, -5, 50, 20, 0.9), (41, 0, 60, 10, 0.9), (3, 3, 3.5, 9, 0.9)).best(0.1, 30, 40)
    assert found.corners.tolist() == [[0, 0, 40, 20]]


def test_threshold_is_the_least_that_counts():
    assert len(boxes((0, 0, 9, 9, 0.5), (20, 20, 29, 29, 0.49)).best(0.5, 40, 40).scores) == 1


def test_so_many_at_most():
    many = boxes(*((20.0 * number, 0, 20 * number + 10, 10, 0.5) for number in range(MOST + 5)))
    assert len(many.best(0, 10, 20 * (MOST + 5)).scores) == MOST


def test_none():
    assert shapes(np.zeros((8, 8, 3), np.uint8), [boxes().best(0, 8, 8), boxes()], box_shapes) == [[], []]


def test_centres():
    assert from_centres(np.array([[0.5, 0.5, 0.5, 0.25]], np.float32), 40, 80).tolist() == [[20, 15, 60, 25]]


def test_each_phrase_gets_its_own_shapes():
    picture = np.zeros((20, 40, 3), np.uint8)
    first, none, second = shapes(picture, [boxes((0, 0, 10, 10, 0.3), (20, 0, 30, 10, 0.2)), boxes(),
                                           boxes((30, 10, 40, 20, 0.9))], box_shapes)
    assert [instance.box for instance in first] == [(0, 0, 0.25, 0.5), (0.5, 0, 0.75, 0.5)]
    assert not none
    assert second[0].box == (0.75, 0.5, 1, 1)
    assert second[0].score == pytest.approx(0.9)


def test_masks_without_empty_ones_and_doubles():
    masks = np.zeros((4, 10, 10), np.float32)
    masks[0, :5], masks[1, :4], masks[2], masks[3, 6:] = 1, 1, 0.4, 1
    found = instances(masks, np.array([0.5, 0.9, 1, 0.1], np.float32))
    assert [round(instance.score, 1) for instance in found] == [0.9, 0.1]
