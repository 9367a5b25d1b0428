"""SCAN: the published counts, the paper's examples and an independent interpreter written from the paper's figure 7."""

import pytest

from research.config import build
from research.data.scan import Scan, scan_commands
from research.errors import UserError

# (training, test) examples and test examples with "jump": the files that Lake & Baroni published.
PUBLISHED = {
    "simple": (16728, 4182),
    "length": (16990, 3920),
    "addprim_jump": (14670, 7706),
    "addprim_turn_left": (21890, 1208),
}


def interpret(command: str) -> list[str]:
    """Figure 7, read from the outside in: conjunction, adverb, direction, verb."""
    words = command.split()
    for conjunction in ("and", "after"):
        if conjunction in words:
            cut = words.index(conjunction)
            first, second = interpret(" ".join(words[:cut])), interpret(" ".join(words[cut + 1 :]))
            return first + second if conjunction == "and" else second + first
    if words[-1] in ("twice", "thrice"):
        return interpret(" ".join(words[:-1])) * (2 if words[-1] == "twice" else 3)
    verb = [] if words[0] == "turn" else ["I_" + words[0].upper()]
    if len(words) == 1:
        return verb
    turn = ["I_TURN_" + words[-1].upper()]
    return {2: turn + verb, 3: (turn + turn + verb if words[1] == "opposite" else (turn + verb) * 4)}[len(words)]


def test_every_command_has_the_actions_of_the_paper():
    commands = scan_commands()
    assert len(commands) == 20910
    assert all(list(actions) == interpret(command) for command, actions in commands.items())
    assert {word for actions in commands.values() for word in actions} == {
        "I_WALK", "I_LOOK", "I_RUN", "I_JUMP", "I_TURN_LEFT", "I_TURN_RIGHT",
    }  # fmt: skip
    # Lines of the published files.
    assert " ".join(commands["run opposite left after walk right"]) == (
        "I_TURN_RIGHT I_WALK I_TURN_LEFT I_TURN_LEFT I_RUN"
    )
    assert " ".join(commands["turn opposite right after jump opposite left"]) == (
        "I_TURN_LEFT I_TURN_LEFT I_JUMP I_TURN_RIGHT I_TURN_RIGHT"
    )
    assert (
        " ".join(commands["look around right and jump left twice"])
        == ("I_TURN_RIGHT I_LOOK " * 4 + "I_TURN_LEFT I_JUMP " * 2).strip()
    )
    assert max(map(len, commands.values())) == 48


@pytest.mark.parametrize("split", PUBLISHED)
def test_published_counts(split: str):
    published_train, published_test = PUBLISHED[split]
    full, held = Scan(split, hold_out=False), Scan(split)
    train, test, validation = full.examples("train"), full.examples("test"), full.examples("validation")
    assert (len(train), len(test)) == (published_train, published_test)
    assert validation == held.examples("validation") and test == held.examples("test")
    sources = {example["source"] for example in validation}
    assert len(sources) == len(validation) == {
        "simple": 334, "length": 339, "addprim_jump": 264, "addprim_turn_left": 394,
    }[split]  # fmt: skip
    assert held.examples("train") == [example for example in train if example["source"] not in sources]
    assert len(held.examples("train")) == published_train - len(validation)
    assert sources < {example["source"] for example in train}
    assert not {example["source"] for example in train} & {example["source"] for example in test}


@pytest.mark.parametrize(("name", "longest", "next_longer"), [("length", 22, 24), ("length26", 26, 27)])
def test_length_splits_cut_at_22_and_26_actions(name: str, longest: int, next_longer: int):
    splits = {split: Scan(name, hold_out=False).examples(split) for split in ("train", "test")}
    lengths = {split: [len(example["target"].split()) for example in found] for split, found in splits.items()}
    assert (max(lengths["train"]), min(lengths["test"]), max(lengths["test"])) == (longest, next_longer, 48)
    assert len(lengths["train"]) + len(lengths["test"]) == 20910


@pytest.mark.parametrize(("split", "primitive"), [("addprim_jump", "jump"), ("addprim_turn_left", "turn left")])
def test_added_primitive_is_a_tenth_of_training_and_its_compositions_the_test(split: str, primitive: str):
    train = [example["source"] for example in Scan(split, hold_out=False).examples("train")]
    assert [source for source in train if primitive in source] == [primitive] * (len(train) // 10)
    assert all(primitive in example["source"] for example in Scan(split).examples("test"))
    assert primitive not in {example["source"] for example in Scan(split).examples("test")}


def test_the_seed_decides_the_simple_split():
    first, again, other = (Scan("simple", seed).examples("test") for seed in (0, 0, 1))
    assert first == again and first != other


def test_errors():
    with pytest.raises(UserError, match="'simple', 'length', 'length26', 'addprim_jump', 'addprim_turn_left'"):
        build(Scan, {"split": "jump"}, "data")
    with pytest.raises(UserError, match="split 'tset' is unknown: use train, validation or test"):
        Scan().examples("tset")
