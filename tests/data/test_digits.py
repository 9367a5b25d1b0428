"""Digits: the published scans in the fixed split."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from research.data.digits import Digits
from research.errors import UserError


def test_fixed_split_holds_every_scan_once_in_order():
    source = Digits()
    parts = {split: source.examples(split) for split in source.splits}
    assert {split: len(part) for split, part in parts.items()} == {"train": 1257, "validation": 180, "test": 360}
    everything = [example for part in parts.values() for example in part]
    published = load_digits()
    assert [example["label"] for example in everything] == published.target.tolist()
    images = np.stack([example["image"] for example in everything])
    assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255
    np.testing.assert_allclose(images[..., 0] / 255 * 16, published.images, atol=16 / 255 / 2)
    assert source.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


def test_unknown_split():
    with pytest.raises(UserError, match="split 'tset' is unknown: use train, validation or test"):
        Digits().examples("tset")
