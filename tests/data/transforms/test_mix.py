import numpy as np
import pytest

from research.data.transforms.mix import Mix, cut_box


def test_boxes_are_cut_by_area_around_any_centre():
    random = np.random.default_rng(0)
    boxes = np.array([cut_box(40, 60, 0.75, random) for _ in range(4000)])  # half of each side: 20 x 30
    top, left, bottom, right = boxes.T
    assert boxes.min() == 0 and bottom.max() == 40 and right.max() == 60
    inner = (top > 0) & (bottom < 40) & (left > 0) & (right < 60)
    assert (bottom - top)[inner].tolist() == [20] * inner.sum() and ((right - left)[inner] == 30).all()
    # Centres are even over the image: within half a box of an edge, where half of them are, a quarter of it is lost.
    assert (bottom - top).mean() == pytest.approx(20 * 7 / 8, rel=0.02)
    assert (right - left).mean() == pytest.approx(30 * 7 / 8, rel=0.02)
    top, left, bottom, right = cut_box(8, 8, 1.0, random)
    assert (bottom - top) * (right - left) == 0 and cut_box(8, 8, 0.0, random) != (top, left, bottom, right)


def test_an_image_is_mixed_or_cut_and_never_both():
    example, random = {"image": np.zeros((40, 60, 3), np.uint8), "label": 3}, np.random.default_rng(0)
    mixed = [Mix(mixup=0.2, cutmix=1.0)(example, random) for _ in range(2000)]
    areas = [(bottom - top) * (right - left) for top, left, bottom, right in (one["box"] for one in mixed)]
    cut = [area > 0 for area in areas]
    assert 900 < sum(cut) < 1100 and set(example) == {"image", "label"}
    for one, area in zip(mixed, areas, strict=True):
        assert one["label"] == 3 and 0 <= one["mix"] <= 1
        assert not area or one["mix"] == pytest.approx(1 - area / 2400)
    # Beta(0.2, 0.2) is near 0 or 1 in most cases, Beta(1, 1) even.
    shares = np.array([one["mix"] for one, is_cut in zip(mixed, cut, strict=True) if not is_cut])
    assert ((shares < 0.05) | (shares > 0.95)).mean() > 0.5
    assert Mix()(example, random) is example and set(Mix(mixup=1.0)(example, random)) == {"image", "label", "mix"}
