"""SCAN: commands such as "jump left twice" and the actions they ask for.

Lake & Baroni, "Generalization without Systematicity" (ICML 2018): the phrase-structure grammar of figure 6 gives 20,910
commands, the interpretation function of figure 7 their actions. Both are small enough to be written out here.
"""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from research.data.source import Example, Source, check_split
from research.ranges import Count, Seed

ACTIONS = {"walk": "I_WALK", "look": "I_LOOK", "run": "I_RUN", "jump": "I_JUMP", "turn": None}
TURNS = {"left": "I_TURN_LEFT", "right": "I_TURN_RIGHT"}
REPEATS = {"": 1, " twice": 2, " thrice": 3}
LONGEST_TRAINING_ACTIONS = {"length": 22, "length26": 26}
PRIMITIVES = {"addprim_jump": "jump", "addprim_turn_left": "turn left"}
VALIDATION_SHARE = 50  # one command in 50


@dataclass(frozen=True)
class Scan(Source):
    """Commands ("source") to actions ("target"), both words joined by spaces.

    split: simple (a random 80 % of the commands for training, drawn from `seed`: 16,728 / 4,182), length (at most 22
    actions for training: 16,990 / 3,920), length26 (re-cut at 26, as in Csordas et al. 2021: 18,286 / 2,624),
    addprim_jump and addprim_turn_left (the primitive's compositions are the test, the primitive alone is repeated to a
    tenth of the training set: 14,670 / 7,706 and 21,890 / 1,208).
    The validation split is one in 50 of the training commands, the repeated primitive excepted. hold_out takes it out
    of the training split; without, training is the full published set and validation only tells how it is fitted.
    size: examples kept of each split, for quick trials; all unless given.
    """

    split: Literal["simple", "length", "length26", "addprim_jump", "addprim_turn_left"] = "simple"
    seed: Seed = 0
    hold_out: bool = True
    size: Count | None = None

    splits = ("train", "validation", "test")

    def examples(self, split: str) -> Sequence[Example]:
        """{"source": command, "target": actions} of "train", "validation" or "test", in an order drawn from `seed`."""
        check_split(split, self.splits)
        train, test = _published(self.split, self.seed)
        distinct = [command for command in train if command != PRIMITIVES.get(self.split)]
        validation = distinct[: len(distinct) // VALIDATION_SHARE]
        if self.hold_out:
            held_out = set(validation)
            train = [command for command in train if command not in held_out]
        commands = {"train": train, "validation": validation, "test": test}[split][: self.size]
        actions = scan_commands()
        return [{"source": command, "target": " ".join(actions[command])} for command in commands]


@functools.cache
def scan_commands() -> dict[str, tuple[str, ...]]:
    """All 20,910 commands with their actions."""
    phrases = {
        phrase + adverb: actions * times
        for phrase, actions in _verb_phrases().items()
        for adverb, times in REPEATS.items()
    }
    commands = dict(phrases)
    for first, first_actions in phrases.items():
        for second, second_actions in phrases.items():
            commands[f"{first} and {second}"] = first_actions + second_actions
            commands[f"{first} after {second}"] = second_actions + first_actions
    return commands


def _verb_phrases() -> dict[str, tuple[str, ...]]:
    """Verbs and verbs with directions ("turn" needs a direction and adds no action of its own)."""
    phrases: dict[str, tuple[str, ...]] = {}
    for verb, action in ACTIONS.items():
        act = () if action is None else (action,)
        if act:
            phrases[verb] = act
        for direction, turn in TURNS.items():
            phrases[f"{verb} {direction}"] = (turn, *act)
            phrases[f"{verb} opposite {direction}"] = (turn, turn, *act)
            phrases[f"{verb} around {direction}"] = (turn, *act) * 4
    return phrases


@functools.lru_cache(maxsize=4)
def _published(split: str, seed: int) -> tuple[list[str], list[str]]:
    """Training and test commands."""
    actions, rng = scan_commands(), random.Random(seed)
    commands = list(actions)
    rng.shuffle(commands)
    if split == "simple":
        cut = len(commands) * 4 // 5
        return commands[:cut], commands[cut:]
    if split in LONGEST_TRAINING_ACTIONS:
        is_test = {command: len(actions[command]) > LONGEST_TRAINING_ACTIONS[split] for command in commands}
    else:
        is_test = {command: PRIMITIVES[split] in command for command in commands}
    train = [command for command in commands if not is_test[command]]
    test = [command for command in commands if is_test[command] and command != PRIMITIVES.get(split)]
    if split in PRIMITIVES:
        train += [PRIMITIVES[split]] * (len(train) // 9)  # one in ten
        rng.shuffle(train)
    return train, test
