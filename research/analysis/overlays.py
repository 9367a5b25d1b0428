"""Pictures of answers about places in an image: masks in colours over it, boxes with captions."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

GAP = 4
"""White pixels between pictures side by side."""


def colours(count: int) -> np.ndarray:
    """A colour for each of `count` classes, uint8 [count, 3]: those of the PASCAL VOC masks, without their black."""
    found = np.zeros((count, 3), np.uint8)
    for number in range(count):
        rest = number + 1
        for bit in range(7, -1, -1):
            for channel in range(3):
                found[number, channel] |= ((rest >> channel) & 1) << bit
            rest >>= 3
    return found


def with_mask(image: np.ndarray, mask: np.ndarray, num_classes: int) -> np.ndarray:
    """The image, uint8 [height, width, 1 or 3], under its mask [height, width] in colours, uint8 [height, width, 3].

    Pixels of other classes than the first `num_classes` stay as they are.
    """
    grey = np.broadcast_to(image, (*mask.shape, 3))
    table = np.concatenate([colours(num_classes), np.zeros((1, 3), np.uint8)])
    shown = mask < num_classes
    tinted = (grey.astype(np.uint16) + table[np.where(shown, mask, num_classes)]) // 2
    return np.where(shown[..., None], tinted, grey).astype(np.uint8)


def with_boxes(
    image: np.ndarray, boxes: np.ndarray, classes: Sequence[int], captions: Sequence[str], num_classes: int
) -> np.ndarray:
    """The image, uint8 [height, width, 1 or 3], with boxes and their captions in the colours of their classes, uint8
    [height, width, 3].

    boxes: [n, 4], left, top, right, bottom in pixels; a box's line is its outermost pixels.
    """
    picture = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy())
    draw, table = ImageDraw.Draw(picture), colours(num_classes)
    for (left, top, right, bottom), number, caption in zip(boxes.tolist(), classes, captions, strict=True):
        colour = tuple(table[number].tolist())
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour)
        draw.text((left + 2, top), caption, fill=colour)
    return np.asarray(picture)


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one height, uint8 [height, width, 1 or 3], in a row, uint8 [height, width, 3]."""
    height = pictures[0].shape[0]
    parts = []
    for picture in pictures:
        parts += [np.full((height, GAP, 3), 255, np.uint8), np.broadcast_to(picture, (*picture.shape[:2], 3))]
    return np.concatenate(parts[1:], axis=1)
