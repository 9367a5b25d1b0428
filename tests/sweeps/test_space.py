"""Spaces: what they hold, how they are read, and that mistakes are found before anything is trained."""

import itertools

import numpy as np
import pytest

from research.config import load
from research.errors import UserError
from research.search_space import choice, given, integer, log_uniform, uniform
from research.sweeps.plan import Plan, direction_of, objective_of
from research.sweeps.space import check_space, draw, edges, grid, overrides, read_space, spec_of

DIGITS = "configs/vision/digits.py:tiny"
NESTED = {
    "optimizer.name": choice(["adamw", "sgd"]),
    "optimizer.momentum": given("optimizer.name", "sgd", choice([0.8, 0.9])),
    "model.width": choice([16, 32, 64]),
}


def test_a_grid_has_every_combination_and_no_other():
    expected = {
        (name, momentum, width)
        for name, momentum, width in itertools.product(("adamw", "sgd"), (None, 0.8, 0.9), (16, 32, 64))
        if (momentum is None) == (name == "adamw")
    }
    points = grid(NESTED)
    found = [(p["optimizer.name"], p.get("optimizer.momentum"), p["model.width"]) for p in points]
    assert set(found) == expected and len(found) == len(expected) == 9


def test_drawn_points_stay_in_their_ranges_and_fill_them():
    space = {"a": log_uniform(1e-4, 1e-1), "b": uniform(-1, 1), "c": integer(2, 5), **NESTED}
    points = [draw(space, np.random.default_rng([0, index])) for index in range(600)]
    assert points[:5] == [draw(space, np.random.default_rng([0, index])) for index in range(5)]
    decades = np.histogram(np.log10([p["a"] for p in points]), bins=(-4, -3, -2, -1))[0]
    assert decades.sum() == 600 and decades.min() > 150
    assert {p["c"] for p in points} == {2, 3, 4, 5}
    assert all(-1 <= p["b"] <= 1 for p in points) and abs(np.mean([p["b"] for p in points])) < 0.1
    assert all(("optimizer.momentum" in p) == (p["optimizer.name"] == "sgd") for p in points)


def test_edges_show_every_value():
    seen = {(path, value) for point in edges({"a": uniform(0, 2), **NESTED}) for path, value in point.items()}
    assert seen >= {("a", 0), ("a", 2), ("optimizer.momentum", 0.8), ("optimizer.momentum", 0.9), ("model.width", 64)}


def test_values_of_the_command_line():
    text = {"a": "1e-4,3e-4", "b": "pre,post", "c": "true,none", "d": "[1,2],[3,4]", "e": "7"}
    space = read_space(DIGITS, text, seeds=2)
    values = {path: space[path].values for path in [*text, "seed"]}
    expected = [(1e-4, 3e-4), ("pre", "post"), (True, None), ((1, 2), (3, 4)), (7,), (0, 1)]
    assert list(values.values()) == expected


def test_points_become_the_config_they_say(tmp_path):
    point = {"optimizer.learning_rate": 3e-4, "model.pool": "cls", "task.augmentation": None, "data.name": "1e3"}
    config = load(DIGITS, overrides(point))
    assert config.optimizer.learning_rate == 3e-4 and config.model.pool == "cls"
    assert config.task.augmentation is None and config.data.name == "1e3"
    assert spec_of("a.py", {":row": "b", "x": 1}) == "a.py:row=b" and spec_of("a.py:tiny", {":n": 2}) == "a.py:tiny,n=2"
    assert overrides({":row": "b"}) == {}


@pytest.mark.parametrize(
    ("swept", "words"),
    [
        ({"optimizer.lerning_rate": "1,2"}, ["optimizer.lerning_rate", "did you mean learning_rate"]),
        ({"optimiser.learning_rate": "1,2"}, ["did you mean optimizer"]),
        ({"model.width": "16,wide"}, ["model.width", "int", "'wide'"]),
        ({"sed": "0,1"}, ["sed", "did you mean seed"]),
        ({"training.batch_size": "8,0"}, ["training.batch_size is 0"]),
        ({"optimizer.name": "adamw,adma"}, ["adma", "names"]),
        ({"seed": "0.5"}, ["seed is 0.5"]),
    ],
)
def test_wrong_paths_and_values_are_found_before_any_trial(swept, words):
    with pytest.raises(UserError) as error:
        check_space(DIGITS, {}, read_space(DIGITS, swept))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: choice([]), "no values"),
        (lambda: choice([1, 2, 1]), "1 twice"),
        (lambda: uniform(2, 1), "from 2 to 1"),
        (lambda: log_uniform(0, 1), "above 0"),
        (lambda: read_space(DIGITS, {"seed": "0,1"}, seeds=2), "--seeds=2"),
        (lambda: read_space(DIGITS, {}, seeds=0), "--seeds=0"),
        (lambda: grid({"model.width": integer(1, 5)}), "model.width is a range"),
        (lambda: check_space(DIGITS, {"seed": "1"}, {"seed": choice([0, 1])}), "seed is swept and given"),
    ],
)
def test_contradictory_spaces_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_a_config_without_sweep_and_a_wrong_sweep(tmp_path):
    path = tmp_path / "a.py"
    text = f"from research.config import load\ndef get_config(arg=''): return load({DIGITS!r})\n"
    path.write_text(text)
    with pytest.raises(UserError, match="has no sweep"):
        read_space(str(path), {})
    path.write_text(text + "def sweep(): return {'model.width': [16, 32]}\n")
    with pytest.raises(UserError, match="use choice"):
        read_space(str(path), {})
    path.write_text(
        text + "from research.search_space import *\n"
        "def sweep(): return {'optimizer.b1': given('optimizer.nam', 'adamw', uniform(0.5, 0.9))}\n"
    )
    with pytest.raises(UserError, match=r"depends on optimizer\.nam"):
        read_space(str(path), {})
    path.write_text(text + "def sweep(): return 1 / 0\n")
    with pytest.raises(UserError, match=r"a\.py:3 fails with ZeroDivisionError"):
        read_space(str(path), {})


def test_objective_and_direction():
    config = load(DIGITS)
    assert objective_of(config) == "validation/loss" and direction_of("validation/loss", config) == "minimize"
    assert objective_of(load("configs/vision/digits.py")) == "validation/accuracy"
    config = load(DIGITS, {"checkpoint.best": "validation/miou", "checkpoint.mode": "max"})
    assert objective_of(config) == "validation/miou" and direction_of("validation/miou", config) == "maximize"
    assert direction_of("validation/bleu", config) == "maximize"
    assert direction_of("validation/miou", load(DIGITS)) == "maximize"
    with pytest.raises(UserError, match="--direction"):
        direction_of("validation/sharpness", load(DIGITS))


def plan(**changes):
    space = changes.pop("space", {"optimizer.learning_rate": choice([1.0, 2.0, 3.0]), "seed": choice([0, 1])})
    return Plan(DIGITS, {}, space, "validation/loss", "minimize", **changes)


def test_points_of_a_plan():
    whole = plan().points()
    assert len(whole) == 6 and [point["seed"] for point in whole] == [0, 1] * 3
    part = plan(trials=4).points()
    assert len(part) == 4 and all(point in whole for point in part) and part[0] | {"seed": 1} == part[1]
    ranged = {"optimizer.learning_rate": log_uniform(1e-4, 1e-1), "seed": choice([5, 6])}
    few, more = (plan(space=ranged, sampler="random", trials=count).points() for count in (4, 8))
    assert more[:4] == few and len({point["optimizer.learning_rate"] for point in more}) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampler": "gird"}, "did you mean grid"),
        ({"pruner": "medium"}, "did you mean median"),
        ({"trials": 0}, "--trials=0"),
        ({"trials": 8}, "the grid has 6 trials"),
        ({"trials": 3}, "2 seeds"),
        ({"sampler": "random"}, "give --trials"),
        ({"sampler": "tpe", "trials": 8}, "leave the seeds out"),
    ],
)
def test_impossible_plans_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        plan(**changes).points()
