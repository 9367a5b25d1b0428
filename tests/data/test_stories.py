import re

import pytest

from research.data.stories import Stories
from research.errors import UserError


def simulated(context: str, question: str) -> str:
    """The answer by a simulation of its own, from the text alone."""
    at: dict[str, str] = {}
    holder: dict[str, str | None] = {}
    seen: dict[str, list[str]] = {}
    for sentence in context.split(". "):
        person, *middle, _, noun = sentence.removesuffix(".").split()
        verb = " ".join(middle)
        if verb.endswith("to"):
            at[person] = noun
        elif verb in ("took", "grabbed", "picked up", "got"):
            holder[noun] = person
        else:
            assert holder[noun] == person
            holder[noun] = None
        for thing, who in holder.items():
            if who is not None and (not seen.get(thing) or seen[thing][-1] != at[who]):
                seen.setdefault(thing, []).append(at[who])
    words = re.findall(r"\w+", question)
    if words[1] == "was":
        assert seen[words[3]][-1] == words[-1]
        return seen[words[3]][-2]
    return seen[words[-1]][-1] if words[2] == "the" else at[words[-1]]


@pytest.mark.parametrize("task", [1, 2, 3])
def test_answers_are_those_of_the_world(task):
    examples = Stories(task=task, size=400).examples("train")
    for index in range(200):
        example = examples[index]
        (word,), (start,) = example["answers"]["text"], example["answers"]["answer_start"]
        assert (
            example["context"][start : start + len(word)] == word == simulated(example["context"], example["question"])
        )
        before = example["context"][:start].split(". ")[-1]
        assert example["support"][0].startswith(before)
        assert len(example["support"]) == task and all(each in example["context"] for each in example["support"])


def test_splits_share_no_story_and_examples_depend_on_seed_and_index_alone():
    source = Stories(size=1000)
    texts = {split: {example["context"] for example in source.examples(split)} for split in source.splits}
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"] and len(source.examples("test")) == 100
    assert Stories(size=20).examples("train")[7] == source.examples("train")[7]
    assert Stories(seed=1).examples("train")[7] != source.examples("train")[7]
    assert len({source.fingerprint(split) for split in source.splits}) == 3


def test_pairs_are_a_question_and_the_sentence_with_its_answer():
    example, pair = (Stories(task=2, pairs=pairs).examples("test")[3] for pairs in (False, True))
    assert pair == {"source": example["question"], "target": example["support"][0]}
    assert example["answers"]["text"][0] in pair["target"]


def test_places_of_an_index_and_a_split():
    with pytest.raises(IndexError):
        Stories(size=10).examples("train")[10]
    with pytest.raises(UserError, match="split 'dev' is unknown"):
        Stories().examples("dev")
