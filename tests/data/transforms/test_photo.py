import io
import re

import numpy as np
import pytest
from PIL import Image

from research.config import build
from research.data.randomness import generator
from research.data.transforms import policies
from research.data.transforms.photo import ASPECTS, PhotoAugmentation, crop_box, erased
from research.errors import UserError

KEY = {"seed": 3, "epoch": 1, "index": 7}


def augmented(augmentation, image, seed=0, epoch=0, index=0):
    return augmentation({"image": image}, generator(seed, epoch, index, "photo"))["image"]


def evaluated(image, size, **fields):
    return PhotoAugmentation(size, **fields).evaluate({"image": image})["image"]


def noise(height=6, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("policy", ["none", "randaugment", "autoaugment_cifar", "autoaugment_imagenet"])
@pytest.mark.parametrize("crop", ["none", "random_resized", "pad"])
def test_augmentation_is_a_function_of_seed_epoch_and_index(crop, policy):
    augmentation = PhotoAugmentation(32, crop, policy=policy, color_jitter=0.3, erasing=0.5)
    image = noise(40, 50)
    before = image.copy()
    one = augmented(augmentation, image, **KEY)
    assert one.shape == (32, 32, 3) and one.dtype == np.uint8
    assert (one == augmented(augmentation, Image.fromarray(image), **KEY)).all() and (image == before).all()
    for name in KEY:
        others = [augmented(augmentation, image, **{**KEY, name: 20 + number}) for number in range(3)]
        assert any((one != other).any() for other in others), name


def test_nothing_asked_for_changes_nothing():
    image = noise(8, 8)
    assert (augmented(PhotoAugmentation(8, "none", flip=False), image) == image).all()


def test_flip_happens_in_half_of_the_cases():
    image, augmentation = noise(4, 4), PhotoAugmentation(4, "none")
    flips = 0
    for index in range(200):
        pixels = augmented(augmentation, image, index=index)
        flipped = (pixels == image[:, ::-1]).all()
        assert flipped or (pixels == image).all()
        flips += flipped
    assert 70 < flips < 130


def test_padded_crops_move_by_up_to_four_pixels_over_black():
    image = np.maximum(noise(8, 8), 1)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    windows = {padded[top : top + 8, left : left + 8].tobytes() for top in range(9) for left in range(9)}
    augmentation = PhotoAugmentation(8, "pad", flip=False)
    seen = {augmented(augmentation, image, epoch=epoch).tobytes() for epoch in range(1000)}
    assert seen == windows


def test_crops_have_the_asked_area_and_aspect():
    random = np.random.default_rng(0)
    boxes = np.array([crop_box(500, 375, (0.08, 1.0), random) for _ in range(5000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 500 and boxes[:, 3].max() <= 375
    shares, aspects = width * height / (500 * 375), width / height
    assert 0.079 < shares.min() < 0.09 and 0.95 < shares.max() <= 1
    assert 0.74 < aspects.min() < 0.77 and 1.3 < aspects.max() < 1.35
    square = np.array([crop_box(400, 400, (0.1, 0.5), random) for _ in range(5000)])
    width, height = square[:, 2] - square[:, 0], square[:, 3] - square[:, 1]
    # Every draw fits: the share is even within its range, the logarithm of the aspect even about 0.
    assert (width * height / 400**2).mean() == pytest.approx(0.3, abs=0.01)
    assert np.log(width / height).mean() == pytest.approx(0, abs=0.01)
    assert np.log(width / height).std() == pytest.approx(np.log(ASPECTS[1]) / 3**0.5, abs=0.01)
    assert square[:, 0].std() > 40 and square[:, 1].std() > 40


@pytest.mark.parametrize("width, height", [(1000, 10), (10, 1000)])
def test_an_extreme_shape_is_cropped_in_the_middle(width, height):
    left, top, right, bottom = crop_box(width, height, (1.0, 1.0), np.random.default_rng(0))
    assert (right - left) / (bottom - top) == pytest.approx(ASPECTS[width > height], abs=0.05)
    assert abs(left + right - width) <= 1 and abs(top + bottom - height) <= 1


def test_erasing_covers_the_asked_share_in_the_asked_cases():
    image = np.full((64, 64, 3), 77, np.uint8)
    augmentation = PhotoAugmentation(64, "none", flip=False, erasing=0.25)
    changed = [(augmented(augmentation, image, index=index) != 77).any() for index in range(1000)]
    assert 200 < sum(changed) < 300
    shares = []
    for seed in range(500):
        pixels = erased(image, np.random.default_rng(seed))
        rows, columns = (pixels != 77).any(-1).any(1), (pixels != 77).any(-1).any(0)
        inside = pixels[np.ix_(rows, columns)]
        assert (np.diff(np.flatnonzero(rows)) == 1).all() and (np.diff(np.flatnonzero(columns)) == 1).all()
        assert (inside != 77).mean() > 0.9
        shares.append(rows.sum() * columns.sum() / 64**2)
    assert 0.015 < min(shares) < 0.03 and 0.3 < max(shares) < 0.35
    assert np.mean(shares) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    assert abs(inside.mean() - 127.5) < 15 and (image == 77).all()


def test_colour_jitter_stays_within_its_factors():
    image = np.full((4, 4, 3), 100, np.uint8)
    augmentation = PhotoAugmentation(4, "none", flip=False, color_jitter=0.4)
    values = [int(augmented(augmentation, image, index=index)[0, 0, 0]) for index in range(300)]
    assert 58 <= min(values) < 65 and 135 < max(values) <= 140  # brightness alone changes a grey image


@pytest.mark.parametrize("crop", ["none", "random_resized", "pad"])
@pytest.mark.parametrize("policy", ["randaugment", "autoaugment_cifar", "autoaugment_imagenet"])
def test_one_pixel_is_enough(crop, policy):
    pixel = np.array([[[1, 2, 3]]], np.uint8)
    for size in (1, 5):
        augmentation = PhotoAugmentation(size, crop, policy=policy, num_ops=8, color_jitter=0.4, erasing=1.0)
        for epoch in range(40):
            assert augmented(augmentation, pixel, epoch=epoch).shape == (size, size, 3)
        assert (evaluated(pixel, size, crop=crop) == pixel).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_fraction, short", [(0.875, 36), (0.9, 35), (0.95, 33), (1.0, 32)])
@pytest.mark.parametrize("width, height", [(500, 375), (33, 81), (16, 16), (60, 20)])
def test_evaluation_is_resize_then_crop(width, height, crop_fraction, short, interpolation):
    image = Image.fromarray(100 + noise(height, width) // 4)  # so little contrast that nothing overshoots 0 or 255
    sides = (short * width // min(width, height), short * height // min(width, height))
    left, top = (round((side - 32) / 2) for side in sides)
    kernel = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    expected = image.resize(sides, kernel).crop((left, top, left + 32, top + 32))
    pixels = evaluated(image, 32, crop_fraction=crop_fraction, interpolation=interpolation)
    differences = np.abs(pixels.astype(int) - np.asarray(expected))  # from rounding between the two directions
    assert differences.max() <= 2 and (differences > 1).mean() < 0.002 and pixels.shape == (32, 32, 3)


def test_evaluation_of_other_crops_resizes_the_whole_image():
    image = noise(20, 40)
    expected = Image.fromarray(image).resize((8, 8), Image.Resampling.BILINEAR)
    for crop in ("none", "pad"):
        assert (evaluated(image, 8, crop=crop, crop_fraction=0.5) == expected).all()


@pytest.mark.parametrize("crop", ["none", "random_resized", "pad"])
def test_marks_follow_every_change_of_a_photo(crop, monkeypatch):
    """A white box on black: after crop, flip and a policy of moves it is where box, mask and keypoint say."""
    monkeypatch.setattr(policies, "NAMES", tuple(policies.EITHER_WAY))
    augmentation = PhotoAugmentation(96, crop, scale=(0.4, 1.0), policy="randaugment")
    image = np.zeros((120, 160, 3), np.uint8)
    image[40:70, 50:110] = 255
    example = {"image": image, "mask": np.int32(image[..., 0] > 0), "label": 9}
    example["boxes"] = np.array([[50, 40, 110, 70]], np.float32)
    example["keypoints"] = np.array([[[80.0, 55.0, 2.0]]], np.float32)
    seen = 0
    for index in range(150):
        result = augmentation(example, generator(0, 0, index, "photo"))
        assert result["label"] == 9 and result["mask"].shape == (96, 96) and result["boxes"].dtype == np.float32
        inside, white = result["mask"] == 1, result["image"][..., 0] > 191  # grey comes in from outside
        (left, top, right, bottom), ((x, y, visible),) = result["boxes"][0], result["keypoints"][0]
        if visible and 1 < x < 95 and 1 < y < 95:
            assert inside[int(y), int(x)]
        if white.any():
            rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
            assert left <= columns[0] + 1 and right >= columns[-1] and top <= rows[0] + 1 and bottom >= rows[-1]
            assert (inside != white).sum() <= 1.5 * 2 * (np.ptp(rows) + np.ptp(columns) + 2)  # along the edge
            seen += inside.sum() > 300
    assert seen > 100


def test_a_large_jpeg_is_decoded_smaller():
    y, x = np.mgrid[:600, :801] / 100
    image = np.stack([128 + 100 * np.sin(x), 128 + 100 * np.cos(y), 128 + 100 * np.sin(x + y)], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    decoded = Image.open(buffer)
    full = augmented(PhotoAugmentation(64), Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"), **KEY)
    small = augmented(PhotoAugmentation(64), decoded, **KEY)
    assert decoded.width < 801
    assert np.abs(full.astype(int) - small).mean() < 3 and np.abs(full.astype(int) - small).max() < 20


def test_pillow_images_of_other_modes_become_rgb():
    for mode in ("L", "RGBA", "P", "1"):
        image = Image.fromarray(noise(9, 9)).convert(mode)
        assert augmented(PhotoAugmentation(8), image).shape == evaluated(image, 8).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), "u1")]
)
def test_other_arrays_are_refused(image):
    with pytest.raises(UserError, match=r"give uint8 \[height, width, 3\]"):
        augmented(PhotoAugmentation(8), image)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"size": 0}, "photo.size is 0: use 1 or more"),
        ({"num_ops": 0}, "photo.num_ops is 0: use 1 or more"),
        ({"crop": "centre"}, "photo.crop must be Literal['none', 'random_resized', 'pad'], got 'centre'"),
        ({"policy": "augmix"}, "photo.policy must be Literal['none', 'randaugment', "),
        ({"interpolation": "cubic"}, "Literal['bilinear', 'bicubic'], got 'cubic'"),
        ({"scale": (0.0, 1.0)}, "photo.scale[0] is 0.0: use more than 0"),
        ({"scale": (0.9, 0.5)}, "not a range of fractions"),
        ({"scale": (0.5,)}, "photo.scale must have 2 values, got 1"),
        ({"magnitude": 11}, "photo.magnitude is 11: use 0 or more and at most 10"),
        ({"magnitude_std": -1.0}, "photo.magnitude_std is -1.0: use 0 or more"),
        ({"magnitude_std": float("nan")}, "photo.magnitude_std is nan"),
        ({"color_jitter": 1.5}, "photo.color_jitter is 1.5: use 0 or more and at most 1"),
        ({"crop_fraction": 0.0}, "photo.crop_fraction is 0.0: use more than 0"),
        ({"crop_fraction": 1.1}, "photo.crop_fraction is 1.1: use more than 0 and at most 1"),
        ({"erasing": -0.1}, "photo.erasing is -0.1: use 0 or more and at most 1"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        build(PhotoAugmentation, options, "photo")
