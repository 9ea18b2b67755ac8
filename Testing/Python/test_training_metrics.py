"""Scores on label maps small enough to count by hand."""

import numpy as np
from MRFUNetSegmentationLib.training.metrics import dice


def test_dice():
    a, b = np.array([1, 1, 1, 0, 0], bool), np.array([0, 1, 1, 1, 1], bool)
    assert dice(a, b) == 2 * 2 / 7
    assert dice(a, ~a) == 0
    assert dice(a & ~a, b & ~b) == 1
