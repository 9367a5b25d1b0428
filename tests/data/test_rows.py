import dataclasses

import numpy as np
import pytest

from research.data.images import LabelledImages
from research.data.packing import PackedImages
from research.data.rows import Rows
from research.data.text import Prompts, SentencePairs, TokenWindows
from research.tasks.masked_images import MaskedPatches
from research.tasks.next_token import TokenRows
from research.tasks.pretext import ChangedImages


@dataclasses.dataclass(frozen=True)
class Sized(Rows):
    """Rows that tell what they were asked for."""

    sizes: np.ndarray | None
    count: int = 4

    def __len__(self):
        return self.count

    def lengths(self):
        return self.sizes

    def batch(self, indices, epochs, length):
        return {"index": indices, "epoch": epochs, "length": length}


def test_rows_are_equal_and_their_examples_own_unless_they_say_otherwise():
    rows = LabelledImages([{"image": np.ones((2, 2, 1), np.uint8), "label": 3}] * 2, None, 0)
    assert rows.lengths() is rows.tokens() is rows.owners() is None
    assert rows.first()["label"].tolist() == [3] and rows.first(5)["label"].tolist() == [3, 3]
    with pytest.raises(TypeError, match="abstract"):
        Rows()


def test_every_dataset_has_these_defaults():
    for kind in (
        *(LabelledImages, PackedImages, SentencePairs, TokenWindows),
        *(Prompts, MaskedPatches, TokenRows, ChangedImages),
    ):
        assert issubclass(kind, Rows) and kind.owners is Rows.owners and kind.first is Rows.first
        assert callable(kind.tokens) and callable(kind.lengths)


def test_the_first_rows_are_padded_to_their_own_length():
    pairs = SentencePairs.from_lists([[7], [7, 8, 9, 6], [5, 5]], [[4, 4], [3], [2] * 20], max_length=30)
    assert pairs.first()["source"].shape == (1, 3)  # two tokens and the end marker of the target
    assert pairs.first(2)["source"].shape == (2, 5)
    assert pairs.first(9)["source"].shape == (3, 21)


def test_the_first_sizes_are_pairs():
    rows = Sized(np.array([[3, 9], [5, 2], [8, 1], [1, 20]]))
    batch = rows.first(3)
    assert batch["length"] == (8, 9) and isinstance(batch["length"][0], int)
    assert batch["index"].tolist() == [0, 1, 2] and batch["epoch"].tolist() == [0, 0, 0]
    assert rows.tokens().tolist() == [27, 10, 8, 20]
    lengths = Sized(np.array([3, 9, 5, 2]))
    assert lengths.first(3)["length"] == 9 and isinstance(lengths.first()["length"], int)
    assert lengths.tokens().tolist() == [3, 9, 5, 2]
    assert Sized(None).first()["length"] is None and len(Sized(np.zeros(0, np.int64), 0).first()["index"]) == 0
