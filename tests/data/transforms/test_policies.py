import numpy as np
import pytest
from PIL import Image

from research.data.transforms import policies
from research.data.transforms.policies import CIFAR, GREY, IMAGENET, NAMES, OPERATIONS, increasing, published, shear_x

EXAMPLE = {"image": Image.new("RGB", (4, 4)), "label": 2}


def noise(height=6, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def apply(name, pixels, argument=0):
    return np.asarray(OPERATIONS[name](Image.fromarray(pixels), argument))


def grey_of(pixels):
    """ITU-R 601 luma, within one of what integer arithmetic gives."""
    return pixels @ np.array([0.299, 0.587, 0.114])


def test_auto_contrast_stretches_every_channel_and_leaves_a_flat_one():
    pixels = np.array([[[10, 50, 7], [20, 60, 7], [30, 90, 7]]], np.uint8)
    assert apply("AutoContrast", pixels).tolist() == [[[0, 0, 7], [127, 63, 7], [255, 255, 7]]]


def test_equalize_by_definition():
    pixels = np.random.default_rng(0).integers(40, 90, (160, 200, 3), np.uint8)
    expected = np.empty_like(pixels)
    for channel in range(3):
        values = pixels[..., channel]
        step = (values < values.max()).sum() // 255
        for value in np.unique(values):
            expected[..., channel][values == value] = min(((values < value).sum() + step // 2) // step, 255)
    equalized = apply("Equalize", pixels)
    assert (equalized == expected).all()
    assert np.ptp(equalized) > 240 and abs(equalized.mean() - 127.5) < 5
    flat = np.full((3, 3, 3), 9, np.uint8)
    assert (apply("Equalize", flat) == flat).all()


def test_invert():
    pixels = noise()
    assert (apply("Invert", pixels) == 255 - pixels).all()


def test_rotate_by_a_right_angle_is_exact_and_other_angles_bring_in_grey():
    pixels = noise()
    assert (apply("Rotate", pixels, 90) == np.rot90(pixels)).all()
    assert (apply("Rotate", pixels, 180) == pixels[::-1, ::-1]).all()
    assert (apply("Rotate", noise(32, 32), 30)[0, 0] == GREY).all()


def test_posterize_keeps_the_highest_bits():
    pixels = noise()
    for bits in range(9):
        assert (apply("Posterize", pixels, bits) == pixels.astype(int) // 2 ** (8 - bits) * 2 ** (8 - bits)).all()


def test_solarize_inverts_from_the_threshold_on():
    pixels = np.array([[[0, 99, 100], [101, 128, 255]]], np.uint8)
    assert apply("Solarize", pixels, 100).tolist() == [[[0, 99, 155], [154, 127, 0]]]
    assert (apply("Solarize", pixels, 256) == pixels).all()


def test_solarize_add_adds_below_128():
    pixels = np.array([[[0, 99, 127], [128, 200, 255]]], np.uint8)
    assert apply("SolarizeAdd", pixels, 50).tolist() == [[[50, 149, 177], [128, 200, 255]]]


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 1.9])
def test_colour_contrast_and_brightness_are_blends(factor):
    pixels = noise(16, 16)
    starts = {"Color": grey_of(pixels)[..., None], "Contrast": grey_of(pixels).mean(), "Brightness": 0.0}
    for name, start in starts.items():
        expected = np.clip(start + factor * (pixels - start), 0, 255)
        assert np.abs(apply(name, pixels, factor) - expected).max() <= 2, name


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.9])
def test_sharpness_blends_with_a_smoothed_image(factor):
    pixels = noise(8, 8)
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), axis=(0, 1))
    smooth = (windows * kernel).sum((-2, -1))
    expected = np.clip(smooth + factor * (pixels[1:-1, 1:-1] - smooth), 0, 255)
    assert np.abs(apply("Sharpness", pixels, factor)[1:-1, 1:-1] - expected).max() <= 1.5


def test_shear_leans_a_column():
    pixels = np.zeros((9, 20, 3), np.uint8)
    pixels[:, 10] = 255
    leant = apply("ShearX", pixels, 0.5)[..., 0].astype(float)
    inside = leant[:, :15]  # grey comes in from the right
    centres = (inside * np.arange(15)).sum(1) / inside.sum(1)
    assert np.allclose(centres, 10 - 0.5 * (np.arange(9) + 0.5), atol=0.05)
    assert leant[-1, -1] == GREY[0]
    image = Image.fromarray(noise(20, 30))
    for factor in (0.3, -0.17):
        sheared = image.transform((30, 20), Image.Transform.AFFINE, (1, factor, 0, 0, 1, 0), Image.Resampling.BILINEAR)
        difference = np.abs(np.asarray(shear_x(image, factor)).astype(int) - np.asarray(sheared))[:, 7:-7]
        assert difference.max() <= 2
    transposed = apply("ShearY", np.ascontiguousarray(pixels.swapaxes(0, 1)), 0.5)
    assert (transposed.swapaxes(0, 1)[..., 0] == leant).all()


def test_translate_moves_whole_pixels():
    pixels = noise(4, 10)
    left = apply("TranslateX", pixels, 0.3)
    assert (left[:, :7] == pixels[:, 3:]).all() and (left[:, 7:] == GREY).all()
    down = apply("TranslateY", pixels, -0.25)
    assert (down[1:] == pixels[:-1]).all() and (down[0] == GREY).all()


def test_magnitudes_of_rand_augment_grow_with_the_change():
    assert increasing("Rotate", 9, -1) == -27 and increasing("TranslateX", 10, 1) == 0.45
    assert [increasing("Posterize", level, 1) for level in (0, 5, 10)] == [4, 2, 0]
    assert [increasing("Solarize", level, 1) for level in (0, 5, 10)] == [256, 128, 0]
    assert increasing("SolarizeAdd", 10, 1) == 110
    assert increasing("Color", 0, 1) == 1
    assert increasing("Color", 10, -1) == pytest.approx(0.1) and increasing("Color", 10, 1) == 1.9


def test_magnitudes_of_auto_augment_are_the_papers():
    assert [published("Posterize", level, 1) for level in (0, 8, 10)] == [4, 7, 8]
    assert published("Solarize", 5, 1) == 128 and published("ShearX", 5, -1) == -0.15
    assert published("Contrast", 0, 1) == 0.1 and published("Contrast", 10, -1) == pytest.approx(1.9)


@pytest.mark.parametrize("policy", [CIFAR, IMAGENET])
def test_policy_tables_are_whole(policy):
    assert len(policy) == 25 and all(len(row) == 2 for row in policy)
    for name, probability, magnitude in sum(policy, ()):
        assert name in NAMES and 0 <= probability <= 1 and round(probability * 10, 9) % 1 == 0
        assert magnitude in range(10)


def test_auto_augment_takes_the_operations_of_one_row(monkeypatch):
    seen = []
    names = {name: lambda image, argument, name=name: (seen.append((name, argument)), image)[1] for name in NAMES}
    monkeypatch.setattr(policies, "OPERATIONS", names)
    row = (("Rotate", 1.0, 9), ("Equalize", 0.5, 2))
    for seed in range(400):
        policies.auto_augment(EXAMPLE, np.random.default_rng(seed), (row,))
    rotations = [argument for name, argument in seen if name == "Rotate"]
    assert len(rotations) == 400 and {abs(argument) for argument in rotations} == {27.0}
    assert 150 < sum(argument > 0 for argument in rotations) < 250
    assert 150 < len(seen) - 400 < 250


def test_rand_augment_draws_every_operation_equally_often(monkeypatch):
    seen = []
    names = {name: lambda image, argument, name=name: (seen.append((name, argument)), image)[1] for name in NAMES}
    monkeypatch.setattr(policies, "OPERATIONS", names)
    for seed in range(6000):
        policies.rand_augment(EXAMPLE, np.random.default_rng(seed), 9, 0.5, 2)
    counts = [sum(name == known for name, _ in seen) for known in NAMES]
    assert min(counts) > 320 and max(counts) < 480  # 6000 x 2 / 2 / 15 = 400
    degrees = np.abs([argument for name, argument in seen if name == "Rotate"])
    assert degrees.mean() == pytest.approx(27, abs=0.4) and 1 < degrees.std() < 1.8 and degrees.max() <= 30
