"""Training images per second on one core, from JPEG bytes to an augmented array, beside timm's transforms.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch torchvision timm
    python -m benchmarks.input_pipeline --torch-python=/tmp/torch/bin/python

Both sides decode the same JPEG files of 500x375 pixels, take a random-resized crop of 224x224 (bilinear), mirror half
of them and apply RandAugment: two operations of magnitude 9, each left out half of the time. Each is warmed up, then
they take turns on the same core, so that what else the machine does falls on both. Ours is `PhotoAugmentation`, theirs
`timm.data.create_transform(224, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bilinear")`
without normalisation, which both leave to the accelerator. What differs: theirs is a uint8 tensor [3, 224, 224] and
draws from the global generators; ours is a uint8 array [224, 224, 3], makes a generator for each image, and moves an
image by whole pixels where theirs interpolates. PyTorch lives in an environment of its own.
"""

import argparse
import functools
import io
import itertools
import os
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks.turns import measure, run, serve

WIDTH, HEIGHT, SIZE = 500, 375, 224
FILES = 16
PASSES = 16
"""Over all files in each turn, so that the drawn operations and crops are about equally dear in every turn."""

Augment = Callable[[Image.Image], tuple[int, ...]]


def files() -> list[bytes]:
    """JPEG files of smooth shapes with some texture, 73 kB each, somewhat smaller than those of ImageNet."""
    contents = []
    for seed in range(FILES):
        generator = np.random.default_rng(seed)
        pixels = np.zeros((HEIGHT, WIDTH, 3))
        for cells in (4, 12, 40, 120):
            grid = generator.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
            layer = Image.fromarray(grid).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            pixels += np.asarray(layer) / 4
        pixels = np.clip(pixels + generator.normal(0, 7, pixels.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        contents.append(buffer.getvalue())
    return contents


def heed() -> Augment:
    """Augments a Pillow image with this project; gives the shape of the result."""
    from research.data.randomness import generator
    from research.data.transforms.photo import PhotoAugmentation

    augmentation = PhotoAugmentation(SIZE, policy="randaugment")
    epochs = itertools.count()  # fresh draws in every turn, as the other side has them
    return lambda image: augmentation({"image": image}, generator(0, next(epochs), 0, "photo"))["image"].shape


def timm() -> Augment:
    """Augments a Pillow image with timm; gives the shape of the result."""
    import timm.data  # the other side, in an environment of its own
    import torch  # noqa: TID251 - likewise

    torch.set_num_threads(1)
    transform = timm.data.create_transform(
        SIZE, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bilinear", normalize=False
    )

    def augment(image: Image.Image) -> tuple[int, ...]:
        image = image.convert("RGB")
        while True:
            try:
                pixels = transform(image)
            except ValueError:  # Pillow 13 refuses timm's Posterize to 0 bits, three images in a thousand
                continue
            assert pixels.dtype == torch.uint8
            return tuple(pixels.shape)

    return augment


def seconds_of(augment: Augment, contents: list[bytes]) -> float:
    """The time of a turn."""
    start = time.perf_counter()
    for _ in range(PASSES):
        for content in contents:
            shape = augment(Image.open(io.BytesIO(content)))
            if sorted(shape) != [3, SIZE, SIZE]:
                sys.exit(f"error: an image of shape {shape} instead of {SIZE}x{SIZE} pixels in 3 channels")
    return time.perf_counter() - start


def main(arguments: argparse.Namespace) -> None:
    """The command, or its other side."""
    contents = files()
    if arguments.serve:
        torch_turn = functools.partial(seconds_of, timm(), contents)
        serve(lambda work: torch_turn())
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the other process inherits it
    print(f"{FILES} JPEG files of {WIDTH}x{HEIGHT}, {sum(map(len, contents)) / FILES / 1000:.0f} kB each, one core")
    turn = functools.partial(seconds_of, heed(), contents)
    work = {"other": "timm", "work": PASSES * FILES, "unit": "images"}
    measure(turn, "input_pipeline", arguments.torch_python, arguments.rounds, **work)


if __name__ == "__main__":
    run(main, "input_pipeline", __doc__)
