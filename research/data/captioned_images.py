"""Images with captions as arrays, whose texts become tokens as they are read."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from research.data.images import LabelledImages
from research.data.plans import Length
from research.data.rows import Batch, Rows

Example = Mapping[str, Any]
SAMPLE = 2000
"""Examples whose captions make a vocabulary, where a caption costs as much as its image."""


@dataclasses.dataclass(frozen=True)
class CaptionedImages(Rows):
    """A batch holds `image`, as `LabelledImages` makes it, and what `encode` makes of an example: arrays by name.

    An example is read once for both. `images` holds the examples. Rows travel to other processes, and so does `encode`.
    """

    images: LabelledImages
    encode: Callable[[Sequence[Example]], Mapping[str, np.ndarray]]

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> Batch:
        examples = Remembered(self.images.examples)
        images = dataclasses.replace(self.images, examples=examples).batch(indices, epochs, length)["image"]
        return {"image": images, **self.encode([examples[int(index)] for index in indices])}


class Remembered(Sequence[Example]):
    """Examples of a batch, each read once."""

    def __init__(self, examples: Sequence[Example]):
        self._examples, self._read = examples, dict[int, Example]()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        if index not in self._read:
            self._read[index] = self._examples[index]
        return self._read[index]


class CaptionTexts(Sequence[Example]):
    """The captions of examples without their images, for a vocabulary: all where the examples tell them by themselves,
    as `captions`, otherwise what `caption` makes of evenly spaced ones."""

    def __init__(self, examples: Sequence[Example], caption: Callable[[Example], str]):
        self._told: Sequence[str] | None = getattr(examples, "captions", None)
        self._examples, self._caption = examples, caption
        count = len(examples) if self._told is not None else min(len(examples), SAMPLE)
        self._places = np.linspace(0, len(examples) - 1, count).astype(int)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        place = int(self._places[index])
        return {"caption": self._caption(self._examples[place]) if self._told is None else self._told[place]}

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))
