"""Expressions of ListOps, evaluated by a parser of their text."""

import statistics

import numpy as np
import pytest

from research.data.listops import ListOps
from research.errors import UserError


def value(tokens: list[str]) -> int:
    """By a stack, from the text alone."""
    stack: list[list] = [[]]
    for token in tokens:
        if token.startswith("["):
            stack.append([token])
        elif token == "]":
            operator, *values = stack.pop()
            result = {"[MIN": min, "[MAX": max, "[MED": statistics.median, "[SM": sum}[operator](values)
            stack[-1].append(int(result) % 10)
        else:
            stack[-1].append(int(token))
    ((result,),) = stack
    return result


def depth(tokens: list[str]) -> int:
    return max(np.cumsum([token.startswith("[") - (token == "]") for token in tokens]))


@pytest.mark.parametrize("fields", [{}, {"shortest": 20, "longest": 40, "depth": 3, "arguments": 4}])
def test_the_label_is_the_value(fields):
    source = ListOps(size=300, **fields)
    texts = []
    for example in source.examples("train"):
        tokens = example["source"].split(" ")
        assert example["label"] == str(value(tokens))
        assert source.shortest <= len(tokens) <= source.longest and depth(tokens) <= source.depth
        texts.append(example["source"])
    found = {token for text in texts for token in text.split(" ")}
    assert found == {"[MIN", "[MAX", "[MED", "[SM", "]", *"0123456789"}
    assert max(depth(text.split(" ")) for text in texts) > 2


def test_splits_share_nothing_and_examples_are_what_they_were():
    source = ListOps(size=400, longest=20)
    splits = {split: [example["source"] for example in source.examples(split)] for split in source.splits}
    assert not {*splits["train"]} & {*splits["validation"], *splits["test"]}
    assert not {*splits["validation"]} & {*splits["test"]}
    assert splits["train"][7] == source.examples("train")[7]["source"] and len(splits["test"]) == 40
    assert splits["train"][:9] != [each["source"] for each in ListOps(size=9 + 1, seed=1).examples("train")][:9]


def test_lengths_that_cannot_be():
    with pytest.raises(UserError, match=r"data\.longest 12 is below data\.shortest 4 and ten more"):
        ListOps(longest=12)
    with pytest.raises(UserError, match=r"data\.depth 1 and data\.arguments 2 hardly ever give an expression of 50 to"):
        ListOps(shortest=50, depth=1, arguments=2).examples("train")[0]
