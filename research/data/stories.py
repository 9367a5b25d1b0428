"""Stories of a small simulated world with a question about each, in the style of the bAbI tasks 1 to 3.

Weston et al. 2015, "Towards AI-Complete Question Answering", tables 1 and 2 and section 4: people walk between places,
take things and put them down; a sentence tells each action, and a question needs one, two or three of them. Nothing is
copied from that data set: the world is simulated here, and any number of stories can be drawn from it.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from research.data.source import Drawn, Example, Source, check_split, split_of
from research.ranges import Range, Seed

PEOPLE = ("Mary", "John", "Sandra", "Daniel", "Emma", "Oscar", "Ruth", "Peter")
PLACES = ("kitchen", "garden", "office", "bathroom", "bedroom", "hallway", "school", "park", "cinema", "library")
THINGS = ("apple", "football", "milk", "book", "lamp", "umbrella")
MOVES = ("went to", "moved to", "walked to", "travelled to", "went back to")
TAKES = ("took", "grabbed", "picked up", "got")
DROPS = ("dropped", "put down", "left", "discarded")

SENTENCES = {1: (2, 10), 2: (6, 18), 3: (10, 26)}
"""How many sentences a story of each task has: at least, and at most."""


@dataclass(frozen=True)
class Stories(Source):
    """Stories with a question whose answer is a word of the story; no story is in two splits.

    task: sentences that the answer needs. 1: where a person is. 2: where a thing is that people carry. 3: where it was
    before it was there. size: training examples; a tenth of it are validation, and another the test. pairs: gives the
    question with the sentence that holds the answer, as {"source", "target"}, for vectors of sentences.
    """

    task: Annotated[int, Range(1, 3)] = 1
    size: Annotated[int, Range(10, 10_000_000)] = 10_000
    seed: Seed = 0
    pairs: bool = False

    splits = ("train", "validation", "test")

    def examples(self, split: str) -> Sequence[Example]:
        """{"question", "context", "answers": {"text": [word], "answer_start": [character]}, "support": [sentence]}.

        `support` are the sentences that the answer needs, the one that holds it first. An example is a function of
        (seed, split, index) alone.
        """
        check_split(split, self.splits)
        return Drawn(self.size if split == "train" else self.size // 10, functools.partial(self._drawn, split))

    def _drawn(self, split: str, index: int) -> Example:
        example = _drawn(self.seed, self.task, split, index)
        if self.pairs:
            return {"source": example["question"], "target": example["support"][0]}
        return example


@functools.lru_cache(maxsize=20_000)  # a split is read for the checks, for its scores and for its samples
def _drawn(seed: int, task: int, split: str, index: int) -> Example:
    """The first of the draws of this key that has an answer and whose story belongs to the split."""
    attempt = 0
    while True:
        key = (seed, task, Stories.splits.index(split), index, attempt)
        example = _example(np.random.default_rng(key), task)
        if example and split_of(example["context"]) == split:
            return example
        attempt += 1


@dataclass
class _World:
    """What is true at the moment, what was told, and the numbers of the sentences that told it."""

    told: list[str] = field(default_factory=list)
    person_at: dict[str, tuple[str, int]] = field(default_factory=dict)
    held_by: dict[str, tuple[str, int]] = field(default_factory=dict)
    visits: dict[str, list[tuple[str, tuple[int, ...]]]] = field(default_factory=dict)
    """Of each thing: the places where it was, in order, each with the sentences that say so, the place's first."""

    def walk(self, person: str, place: str, verb: str) -> None:
        self.told.append(f"{person} {verb} the {place}.")
        self.person_at[person] = place, len(self.told) - 1
        for thing, (holder, taken) in self.held_by.items():
            if holder == person:
                self._arrive(thing, place, (len(self.told) - 1, taken))

    def take(self, person: str, thing: str, verb: str) -> None:
        self.told.append(f"{person} {verb} the {thing}.")
        self.held_by[thing] = person, len(self.told) - 1
        place, number = self.person_at[person]
        self._arrive(thing, place, (number, len(self.told) - 1))

    def drop(self, person: str, thing: str, verb: str) -> None:
        self.told.append(f"{person} {verb} the {thing}.")
        del self.held_by[thing]

    def _arrive(self, thing: str, place: str, support: tuple[int, ...]) -> None:
        visits = self.visits.setdefault(thing, [])
        if not visits or visits[-1][0] != place:
            visits.append((place, support))


def _example(draw: np.random.Generator, task: int) -> Example | None:
    """A story and a question that has an answer in it; None where this draw has none."""
    world = _story(draw, task)
    if task == 1:
        person = _one(draw, sorted(world.person_at))
        place, number = world.person_at[person]
        return _asked(world, f"Where is {person}?", place, (number,))
    known = [thing for thing in THINGS if len(world.visits.get(thing, ())) >= task - 1]
    if not known:
        return None
    thing = _one(draw, known)
    *before, (place, support) = world.visits[thing]
    if task == 2:
        return _asked(world, f"Where is the {thing}?", place, support)
    earlier, first = before[-1]
    return _asked(world, f"Where was the {thing} before the {place}?", earlier, (*first, support[0]))


def _story(draw: np.random.Generator, task: int) -> _World:
    world, (least, most) = _World(), SENTENCES[task]
    people = draw.permutation(PEOPLE)[:4].tolist()
    things = draw.permutation(THINGS)[:3].tolist() if task > 1 else []
    for _ in range(int(draw.integers(least, most + 1))):
        person = _one(draw, people)
        place, _ = world.person_at.get(person, (None, 0))
        # A thing lies where it was last, or, while nobody has held it, wherever a person finds it.
        near = [thing for thing in things
                if thing not in world.held_by and world.visits.get(thing, [(place, ())])[-1][0] == place]  # fmt: skip
        held = [thing for thing, (holder, _) in world.held_by.items() if holder == person]
        chance = draw.random()
        if place and near and chance < 0.4:
            world.take(person, _one(draw, near), _one(draw, TAKES))
        elif held and chance < 0.55:
            world.drop(person, _one(draw, held), _one(draw, DROPS))
        else:
            world.walk(person, _one(draw, [other for other in PLACES if other != place]), _one(draw, MOVES))
    return world


def _asked(world: _World, question: str, answer: str, support: tuple[int, ...]) -> Example:
    before = sum(len(sentence) + 1 for sentence in world.told[: support[0]])
    start = before + world.told[support[0]].index(answer)
    answers = {"text": [answer], "answer_start": [start]}
    sentences = [world.told[number] for number in support]
    return {"question": question, "context": " ".join(world.told), "answers": answers, "support": sentences}


def _one(draw: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(draw.integers(len(options)))]
