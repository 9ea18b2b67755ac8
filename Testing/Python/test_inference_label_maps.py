import numpy as np
from MRFUNetSegmentationLib.inference.label_maps import compress, decompress


def test_label_maps_come_back_as_they_were():
    labels = np.zeros((9, 8, 7), np.uint8)
    labels[2, 3, 4], labels[5, 3, 6] = 1, 3
    for array in (labels, np.zeros_like(labels), labels + 1, labels[::-1, :, ::2]):
        back = decompress(compress(array), array.shape)
        assert back.dtype == np.uint8
        assert back.flags.writeable
        assert np.array_equal(back, array)


def test_what_is_empty_takes_next_to_nothing():
    labels = np.zeros((180, 220, 180), np.uint8)
    labels[80:90, 100:120, 60:80] = 1
    assert len(compress(labels)) < 200
