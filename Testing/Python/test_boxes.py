import numpy as np
import pytest
from MRFUNetSegmentationLib.boxes import occupied_box


@pytest.fixture
def labels():
    array = np.zeros((9, 8, 7), np.uint8)
    array[2, 3, 4], array[5, 3, 6] = 1, 3
    return array


def test_the_box_holds_all_that_is_marked(labels):
    assert occupied_box(labels) == (slice(2, 6), slice(3, 4), slice(4, 7))
    assert occupied_box(labels == 3) == (slice(5, 6), slice(3, 4), slice(6, 7))
    assert occupied_box(labels[2]) == (slice(3, 4), slice(4, 5))


def test_nothing_has_no_box():
    assert occupied_box(np.zeros((2, 3, 4))) is None


def test_a_margin_ends_where_the_array_does(labels):
    assert occupied_box(labels, margin=2) == (slice(0, 8), slice(1, 6), slice(2, 7))
