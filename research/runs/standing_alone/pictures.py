"""Images in and out of an exported model: what becomes of a file, and what is said of the raw answers to it.

INPUTS and ANSWERS are named by `kind` in the sections "input" and "answer" of `export.json`. An input makes rows, dicts
of arrays, and what its answer has to know of it.
"""

import math
from typing import Any

import numpy as np
from PIL import Image

from research.data.image_files import decode_image, read_image_file


def _pixels(model: Any, item: str) -> np.ndarray:
    """As an image viewer shows them, uint8 [height, width, channels]; resized where the model knows one size."""
    height, width, channels = model.input["shape"]
    return decode_image(read_image_file(item), item, (height, width) if height and width else None, channels)


def _resized(pixels: np.ndarray, size: tuple[int, int], box: tuple[float, ...], method: str) -> np.ndarray:
    """The box (left, top, right, bottom) of an image as one of another size (height, width)."""
    if pixels.shape[:2] == size and box == (0, 0, *size[::-1]):
        return pixels
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    picture = picture.resize(size[::-1], Image.Resampling[method.upper()], (box[0], box[1], box[2], box[3]))
    return np.asarray(picture).reshape(*size, -1)


def image(model: Any, item: str) -> tuple[list[dict[str, Any]], Any]:
    """An image; of a photograph the middle where training cut at random, resized to one size."""
    pixels, photo = _pixels(model, item), model.input["photo"]
    if photo is None:
        return [{"image": pixels}], None
    height, width, size = *pixels.shape[:2], photo["size"]
    box: tuple[float, ...] = (0, 0, width, height)
    if photo["middle"]:  # the short side is resized to size / fraction, and the middle cut out then
        sides = [math.floor(size / photo["fraction"]) * side // min(width, height) for side in (width, height)]
        starts = [round((side - size) / 2) for side in sides]
        corners = [*starts, *(start + size for start in starts)]
        box = tuple(at * whole / side for at, whole, side in zip(corners, (width, height) * 2, sides * 2, strict=True))
    return [{"image": _resized(pixels, (size, size), box, photo["method"])}], None


def square(model: Any, item: str) -> tuple[list[dict[str, Any]], Any]:
    """An image as large as a square allows, in its upper left corner, and the size that it has there."""
    pixels, size, most = _pixels(model, item), model.input["size"], model.input["short_side"]
    height, width = pixels.shape[:2]
    short, long = sorted((height, width))
    if most is None:
        shape = (max(round(height * (size / long)), 1), max(round(width * (size / long)), 1))
    else:
        exact = min(size * short / long, float(most))
        shape = (max(round(exact), 1), max(int(exact * long / short), 1))
        shape = (short, long) if shape[0] == short else shape
        shape = shape if height <= width else shape[::-1]
    row = {"image": np.zeros((size, size, pixels.shape[2]), np.uint8), "sizes": np.array(shape)}
    row["image"][: shape[0], : shape[1]] = _resized(pixels, shape, (0, 0, width, height), "bilinear")
    return [row], (height, width)


def windows(model: Any, item: str) -> tuple[list[dict[str, Any]], Any]:
    """Square windows that cover an image, black beside it, and where they lie."""
    pixels, size = _pixels(model, item), model.input["size"]
    starts = []
    for length in pixels.shape[:2]:
        space = max(length - size, 0)
        count = math.ceil(space / max((1 - model.input["overlap"]) * size, 1)) + 1
        starts.append([round(space * number / max(count - 1, 1)) for number in range(count)])
    places = [(top, left) for top in starts[0] for left in starts[1]]
    parts = [pixels[top : top + size, left : left + size] for top, left in places]
    beside = [[(0, size - side) for side in part.shape[:2]] for part in parts]
    rows = [{"image": np.pad(part, (*more, (0, 0)))} for part, more in zip(parts, beside, strict=True)]
    return rows, (places, pixels.shape[:2])


INPUTS = {"image": image, "square": square, "windows": windows}


def label(model: Any, rows: list[dict[str, Any]], kept: Any) -> dict[str, Any]:
    """The most probable class."""
    probabilities = rows[0]["answers"]
    best = int(np.argmax(probabilities))
    return {"label": model.answer["names"][best], "probability": float(probabilities[best])}


def boxes(model: Any, rows: list[dict[str, Any]], kept: Any) -> dict[str, Any]:
    """Of all queries box, class and score, the most probable first; `text` has those from the threshold on."""
    (row,), (height, width), names = rows, kept, model.answer["names"]
    best, scores = row["probabilities"].argmax(axis=-1), row["probabilities"].max(axis=-1)
    places = np.clip(row["boxes"], 0, 1) * (width, height, width, height)
    order = np.argsort(-scores, kind="stable")
    found = {
        "boxes": places[order].round(2).tolist(),
        "scores": scores[order].astype(float).tolist(),
        "labels": [names[number] for number in best[order]],
        "queries": order.tolist(),
    }
    shown = [
        f"{name} {score:.2f} at {','.join(str(round(side)) for side in box)}"
        for box, score, name in zip(found["boxes"], found["scores"], found["labels"], strict=True)
        if score >= model.answer["threshold"]
    ]
    return {"text": "; ".join(shown) or "nothing", **found}


def mask(model: Any, rows: list[dict[str, Any]], kept: Any) -> dict[str, Any]:
    """The class of every pixel as runs of equal ones, row by row: the mean of windows, weighted to their middles."""
    (places, shape), names, size = kept, model.answer["names"], model.input["size"]
    along = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 8)) ** 2)
    weights = np.outer(along, along).astype(np.float32)[..., None]
    total, weight = np.zeros((*shape, len(names)), np.float32), np.zeros((*shape, 1), np.float32)
    for row, (top, left) in zip(rows, places, strict=True):
        here = slice(top, top + size), slice(left, left + size)
        height, width = total[here].shape[:2]
        total[here] += (row["answers"] * weights)[:height, :width]
        weight[here] += weights[:height, :width]
    classes = (total / weight).argmax(axis=-1).ravel()
    counts = np.bincount(classes, minlength=len(names))
    shares = {names[place]: int(counts[place]) / classes.size for place in np.argsort(-counts, kind="stable")}
    firsts = np.flatnonzero(np.concatenate([[True], classes[1:] != classes[:-1]]))
    runs = {"labels": classes[firsts].tolist(), "lengths": np.diff(np.append(firsts, classes.size)).tolist()}
    text = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share)
    return {"text": text, "shares": shares, "classes": names, "mask": {"size": list(shape), **runs}}


ANSWERS = {"label": label, "boxes": boxes, "mask": mask}
