"""The random numbers of an example: a function of (seed, epoch, index), and others for each use of them."""

import numpy as np

PURPOSES = {
    "affine": 0,
    "jigsaw": 1,
    "mask": 2,
    "photo": 3,
    "crop": 4,
    "rows": 5,
    "tokens": 6,
    "window": 7,
    "boxes": 8,
    "foreground": 9,
}
"""What examples draw random numbers for. A new use takes a new number; what a number stands for never changes.

Numpy fills keys up with zeros: "affine" has the key (seed, epoch, index), and no other use may have 0. Only what
belongs to no example does: the orders of `research.data.plans` and the windows of a text, whose keys are (seed, epoch)
and (seed, bucket, epoch).
"""


def generator(seed: int, epoch: int, index: int, purpose: str) -> np.random.Generator:
    """A generator for one use of random numbers in one example, independent of those of all other uses.

    Uses that come one after the other and share a generator are independent too; never make the same one twice.
    """
    return np.random.default_rng((seed, int(epoch), int(index), PURPOSES[purpose]))
