"""Several seeds of one config: their runs, what they have in common, and the comparison with a baseline."""

import json

import numpy as np
import pytest

from research.errors import UserError
from research.files import write_json
from research.sweeps.compare import Comparison
from research.sweeps.seeds import train_seeds

DIGITS = "configs/vision/digits.py:tiny"
PHRASES = "configs/translation/phrasebook.py:tiny"


def never(spec, folder, overrides):
    raise AssertionError("it is trained already, or together with the others")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds") / "digits"
    return folder, train_seeds(DIGITS, folder, {"training.duration": "{'steps': 4}"}, 3, never)


def test_what_the_seeds_have_in_common(seeds):
    folder, found = seeds
    runs = [json.loads((folder / f"trials/000{seed}/results.json").read_text()) for seed in range(3)]
    configs = [json.loads((folder / f"trials/000{seed}/config.json").read_text()) for seed in range(3)]
    assert [config["seed"] for config in configs] == [0, 1, 2]
    assert found == json.loads((folder / "seeds.json").read_text()) and found.keys() == runs[0].keys()
    chosen = int(np.argmin([run["validation/loss"] for run in runs]))
    for name, values in found.items():
        column = np.array([run[name] for run in runs])
        assert len({*column}) > 1 or "accuracy" in name
        assert values["mean"] == pytest.approx(column.mean())
        assert values["deviation"] == pytest.approx(column.std(ddof=1))
        assert values["best"] == column[chosen] and values["seeds"] == 3


def test_the_same_command_trains_nothing_twice_and_compares(seeds, tmp_path, capsys):
    folder, found = seeds
    given = {"training.duration": "{'steps': 4}"}
    for seed in range(3):
        loss = json.loads((folder / f"trials/000{seed}/results.json").read_text())["test/loss"]
        (tmp_path / str(seed)).mkdir()
        write_json(tmp_path / str(seed) / "config.json", {"seed": seed})
        write_json(tmp_path / str(seed) / "results.json", {"test/loss": loss + 1 + seed / 100})
    assert train_seeds(DIGITS, folder, given, 3, never, tmp_path) == found
    assert "paired t-test): clearly lower." in capsys.readouterr().out
    with pytest.raises(UserError, match="has 3 finished runs: use --seeds=3"):
        train_seeds(DIGITS, tmp_path / "new", given, 2, never, tmp_path)
    with pytest.raises(UserError, match="is a single run: train it with --seeds=2"):
        train_seeds(DIGITS, tmp_path / "new", given, 2, never, tmp_path / "0")
    assert not (tmp_path / "new").exists()


def test_batches_of_different_lengths_are_read_one_seed_after_another(tmp_path, capsys):
    trained = []

    def train(spec, folder, overrides):
        trained.append(overrides["seed"])
        if overrides["seed"] == "1":
            raise UserError("the loss is not finite")
        return {"validation/loss": float(overrides["seed"]), "test/loss": 2.0}

    def stored(spec, folder, overrides):
        results = train(spec, folder, overrides)
        write_json(folder / "results.json", results)
        return results

    found = train_seeds(PHRASES, tmp_path / "a", {}, 3, stored)
    assert trained == ["0", "1", "2"]
    assert found["validation/loss"] == {"mean": 1.0, "deviation": pytest.approx(2**0.5), "best": 0.0, "seeds": 2}
    printed = capsys.readouterr().out
    assert "one seed after another: trials of several seeds read batches of different lengths" in printed
    assert "trial 1 failed (the loss is not finite)" in printed


@pytest.mark.parametrize(("given", "count"), [({}, 1), ({}, 0), ({"seed": "3"}, 2)])
def test_wrong_numbers_of_seeds(given, count, tmp_path):
    with pytest.raises(UserError, match=f"--seeds={count}"):
        train_seeds(DIGITS, tmp_path / "a", given, count, never)
    assert not (tmp_path / "a").exists()


def test_no_verdict_where_the_interval_holds_zero_or_the_test_doubts_it():
    zeros = np.zeros(5)
    assert Comparison("x", zeros, np.array([1.0, -1.0, 0.5, -0.4, 0.2])).verdict() == "no clear difference"
    assert Comparison("x", zeros, np.array([1.0, 1.1, 0.9, 1.0, 1.2])).verdict() == "clearly higher"
    both = Comparison("x", zeros[:2], np.array([0.1, 1.0]))  # the bootstrap of two pairs never leaves their range
    assert both.interval()[0] > 0 and both.verdict() == "no clear difference"
