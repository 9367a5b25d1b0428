import numpy as np
import pytest

from research.data.algorithmic import Algorithmic
from research.errors import UserError


@pytest.mark.parametrize("problem", ["copy", "reverse", "addition"])
def test_targets_and_lengths(problem):
    source = Algorithmic(problem=problem, longest=6, test_longest=9, size=300)
    for split, lengths in (("train", range(1, 7)), ("validation", range(1, 7)), ("test", range(7, 10))):
        seen = set()
        for example in source.examples(split):
            parts = [part.split(" ") for part in example["source"].split(" + ")]
            target = example["target"].split(" ")
            if problem == "addition":
                first, second = (int("".join(part)) for part in parts)
                assert int("".join(target)) == first + second and len(parts) == 2
                assert all(len(part) == 1 or part[0] != "0" for part in (*parts, target))
            else:
                assert target == (parts[0] if problem == "copy" else parts[0][::-1])
            seen.add(max(map(len, parts)))
        assert seen <= {*lengths} and (len(seen) == len(lengths) or split == "validation")


def test_splits_share_nothing_and_lengths_are_equally_frequent():
    source = Algorithmic(longest=5, test_longest=6, size=4000)
    splits = {split: [example["source"] for example in source.examples(split)] for split in source.splits}
    assert not {*splits["train"]} & {*splits["validation"]} and len(splits["validation"]) == 400
    counts = np.bincount([len(text.split(" ")) for text in splits["train"]], minlength=6)[1:]
    assert np.abs(counts / 4000 - 0.2).max() < 0.03
    assert splits["train"][11] == source.examples("train")[11]["source"]


def test_a_test_that_is_not_longer_is_refused():
    with pytest.raises(UserError, match=r"data\.test_longest 20 is not above data\.longest 20"):
        Algorithmic(test_longest=20)
