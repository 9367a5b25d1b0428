"""The command, from what it prints to the files it leaves, and the comparison of two sweeps."""

import csv
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from experiments.sweep import _parser, main, plan_of
from research.config import load
from research.errors import UserError
from research.files import write_json
from research.runs.command import parse
from research.search_space import choice
from research.sweeps.compare import Comparison, compare
from research.sweeps.plan import Plan
from research.sweeps.results import write_results
from research.sweeps.study import Study

ROOT = Path(__file__).resolve().parents[2]
DIGITS = "configs/vision/digits.py:tiny"


def sweep(*options):
    """The command, in this process."""
    main(parse(_parser(), options))


@pytest.fixture(scope="module")
def swept(run, tmp_path_factory):
    """Two learning rates by two seeds, on two workers."""
    folder = tmp_path_factory.mktemp("sweep") / "digits"
    options = [f"--config={DIGITS}", f"--workdir={folder}", "--workers=2", "--seeds=2"]
    config = Path(folder.parent / "space.py")
    config.write_text(
        "from research.config import load\nfrom research.search_space import choice\n"
        f"def get_config(arg=''): return load({DIGITS!r})\n"
        "def sweep(): return {'optimizer.learning_rate': choice([1e-4, 1e-2]), 'model.pool': choice(['mean'])}\n"
    )
    options[0] = f"--config={config}"
    done = run("sweep", *options, "--config.training.duration.steps=12")
    assert done.code == 0, done.stderr
    return folder, options, done.stdout


def test_a_real_sweep_finds_the_better_learning_rate(swept):
    folder, _, printed = swept
    assert "best validation/loss" in printed and "with optimizer.learning_rate 0.01" in printed
    assert printed.count(" complete validation/loss ") == 4 and "4 complete" in printed
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["optimizer.learning_rate"], row["seed"]) for row in rows} == {
        (rate, seed) for rate in ("0.0001", "0.01") for seed in ("0", "1")
    }
    for row in rows:
        results = json.loads((folder / row["folder"] / "results.json").read_text())
        config = json.loads((folder / row["folder"] / "config.json").read_text())
        assert float(row["value"]) == results["validation/loss"] and float(row["seconds"]) > 0
        assert str(config["optimizer"]["learning_rate"]) == row["optimizer.learning_rate"]
        assert (str(config["seed"]), config["training"]["duration"]) == (row["seed"], {"steps": 12})
    by_rate = [[float(r["value"]) for r in rows if r["optimizer.learning_rate"] == rate] for rate in ("0.01", "0.0001")]
    mean, deviation = np.mean(by_rate[0]), np.std(by_rate[0], ddof=1)
    assert mean < np.mean(by_rate[1])
    line = (folder / "sweep.md").read_text().split("\n")[6]
    assert line.startswith(f"| {mean:.4g} ± {deviation:.2g} | 0.01 | mean |")


def test_pictures_and_the_best_config(swept):
    folder, _, _ = swept
    for name in ("parallel", "slices", "curves", "importance"):
        assert Image.open(folder / f"{name}.png").size[0] > 300
    best = load(str(folder / "best.py"))
    assert best.optimizer.learning_rate == 1e-2 and best.training.duration.steps == 12


def test_the_same_command_has_nothing_left_and_another_is_refused(swept, capsys):
    folder, options, _ = swept
    sweep(*options, "--config.training.duration.steps=12")
    printed = capsys.readouterr().out
    assert "4 complete" in printed and "trial " not in printed
    with pytest.raises(UserError, match=r"config.training.duration.steps is 12 there and 13 here"):
        sweep(*options, "--config.training.duration.steps=13")
    assert sqlite3.connect(folder / "study.db").execute("select study_name from studies").fetchall() == [("digits",)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trials=0"], "--trials=0"),
        (["--sampler=gird"], "did you mean grid"),
        (["--sweep.model.widht=1,2"], "did you mean width"),
        (["--objective=validation/x"], "--direction"),
        (["--workers=-1"], "--workers=-1"),
        (["--swep.seed=1"], "not an option"),
        (["--workdir="], "--workdir=FOLDER"),
        ([f"--config={DIGITS}", "--sweep.seed=0.5"], "seed is 0.5"),
        (["--sampler=tpe"], "leave the seeds out"),
    ],
)
def test_wrong_commands_end_in_a_sentence_before_any_trial(options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        sweep(f"--config={DIGITS}", f"--workdir={tmp_path / 'a'}", "--trials=2", "--sweep.seed=0,1", *options)
    assert not list(tmp_path.glob("a/trials/*/config.json"))


def test_a_database_that_fails_ends_the_command_in_a_sentence(tmp_path):
    options = [f"--config={DIGITS}", f"--workdir={tmp_path}", "--sweep.seed=0,1"]
    Study(tmp_path, plan_of(parse(_parser(), options)))
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("alter table study_user_attributes rename column value_json to value")
    with pytest.raises(UserError, match=r"database fails \(no such column: \S*value_json\): see to it"):
        sweep(*options)


def test_a_config_is_found_from_any_folder(monkeypatch):
    monkeypatch.chdir(ROOT / "configs")
    options = ["--config=vision/digits.py:tiny", "--sweep.seed=0,1"]
    assert plan_of(parse(_parser(), options)).spec == f"{ROOT}/{DIGITS}"


def test_the_best_config_has_the_very_values_of_its_trial(tmp_path):
    values = {"model.pool": "none", "data.name": "1e3", "model.width": (1, 2), "optimizer.learning_rate": 3e-4}
    space = {path: choice([value]) for path, value in values.items()}
    with Study(tmp_path, Plan(DIGITS, {"task.mixup": "0.1"}, space, "validation/loss", "minimize")) as study:
        trial = study.claim()
        trial.complete(0.5)
        write_results(study)
    assert load(str(tmp_path / "best.py")) == load(trial.spec, trial.overrides)
    assert load(str(tmp_path / "best.py")).model.pool == "none"


def group(folder, values):
    for seed, value in enumerate(values):
        (folder / str(seed)).mkdir(parents=True)
        write_json(folder / str(seed) / "config.json", {"seed": seed})
        write_json(folder / str(seed) / "results.json", {"validation/loss": value, "test/loss": 2 * value})
    return folder


def test_comparison_by_seed(tmp_path):
    a, b = [0.30, 0.32, 0.35, 0.29, 0.31], [0.27, 0.30, 0.33, 0.27, 0.26]
    one, other = group(tmp_path / "a", a), group(tmp_path / "b", b)
    difference = np.subtract(b, a)
    t = difference.mean() / (difference.std(ddof=1) / np.sqrt(5))
    p = 2 * stats.t.cdf(-abs(t), 4)
    text = compare(one, other)
    assert f"a difference of {difference.mean():+.3g}" in text and f"p = {p:.3f}" in text
    assert f"{np.mean(a):.4g} ± {np.std(a, ddof=1):.2g}" in text and "5 seeds" in text
    assert "test/loss is 0.628" in compare(one, other, "test/loss")
    # All 5^5 resamples are as likely as any other: the exact percentiles of their means.
    means = np.array(np.meshgrid(*[difference] * 5)).reshape(5, -1).mean(0)
    np.testing.assert_allclose(
        Comparison("x", np.array(a), np.array(b)).interval(), np.percentile(means, [2.5, 97.5]), atol=6e-4
    )


def test_a_comparison_without_pairs_is_refused(tmp_path, swept):
    one, other = group(tmp_path / "a", [0.1, 0.2, 0.3]), group(tmp_path / "b", [0.1, 0.2])
    with pytest.raises(UserError, match=r"/b has no finished run of seed 2"):
        compare(one, other)
    with pytest.raises(UserError, match="neither a sweep nor finished runs"):
        compare(one, tmp_path)
    with pytest.raises(UserError, match=r"--metric with one of test/loss"):
        compare(one, one, "validation/bleu")
    with pytest.raises(UserError, match=r"share 1 seed"):
        compare(*[group(tmp_path / name, [0.5]) for name in "cd"])
    printed = compare(swept[0], swept[0])
    assert "a difference of +0 " in printed and "p = 1.000" in printed
