"""The number of micro-batches that memory asks for."""

import json

import jax
import pytest

from research.analysis import cost
from research.config import load
from research.errors import UserError
from research.parallel.mesh import batch_sharding
from research.reports.training import train
from research.runs.experiment import build_experiment
from research.training import fitting, limits
from research.training.fitting import choose_micro_batches, dearest_batch, kept_micro_batches
from research.training.loggers import read_metrics

DIGITS = "configs/vision/digits.py:tiny"
PAIRS = "configs/translation/phrasebook.py:tiny"
CALM = {"task.mixup": "0.0", "training.log_every": "1", "training.batch_size": "12"}


def planned(run, count):
    """Bytes of a step: on a CPU the next one takes its room while one is computed."""
    batch = dearest_batch(run)
    rows = -(-len(batch["weight"]) // count) * count
    shapes = cost.abstract_batch(batch, batch_sharding(run.mesh), rows)
    found = cost.memory(run.in_micro_batches(count).compile_step(shapes))
    return found.total + found.temporaries


@pytest.fixture
def room(monkeypatch):
    """Sets the bytes that a step may take."""

    def limited(size):
        monkeypatch.setattr(fitting, "_available", lambda run, batch: size)

    return limited


@pytest.mark.parametrize(("spec", "counts"), [(DIGITS, (1, 2, 3, 4, 6, 12)), (PAIRS, (1, 2, 4, 8, 16, 32))])
def test_the_fewest_that_fit(spec, counts, tmp_path, room, capsys):
    overrides = CALM if spec == DIGITS else {}
    run = build_experiment(load(spec, {**overrides, "mesh": "{'data': 1}"}), tmp_path, jax.devices()[:1]).run
    needed = {count: planned(run, count) for count in counts if count <= len(dearest_batch(run)["weight"])}
    for size in sorted({*needed.values()}):
        room(size)
        expected = next(count for count in needed if needed[count] <= size)
        assert choose_micro_batches(run) == expected == kept_micro_batches(tmp_path, 1)
        assert f"{expected} micro-batch" in capsys.readouterr().out
    assert kept_micro_batches(tmp_path, 2) is None, "other devices"
    room(min(needed.values()) - 1)
    with pytest.raises(UserError, match=r"is the smallest, and .* of memory are free: use a smaller model"):
        choose_micro_batches(run)


def test_a_run_that_chooses_learns_what_the_whole_batch_teaches_and_resumes(tmp_path, room):
    whole = train(DIGITS, tmp_path / "whole", {**CALM, "training.batch_size": "16"})
    auto = {**CALM, "training.batch_size": "16", "training.accumulate": "auto"}
    (tmp_path / "other").mkdir()
    run = build_experiment(load(DIGITS, auto), tmp_path / "other").run
    room(planned(run, 2))
    parts = train(DIGITS, tmp_path / "auto", auto)
    chosen = json.loads((tmp_path / "auto" / "micro_batches.json").read_text())["micro_batches"]
    assert chosen > 1
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-4)
    losses = [[row["train/loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl") if "train/loss" in row]
              for name in ("whole", "auto")]  # fmt: skip
    assert len(losses[0]) == 6 and losses[1] == pytest.approx(losses[0], rel=1e-5)

    room(0)  # the number is kept, or this would be refused
    longer = {**auto, "training.duration": "{'steps': 8}"}
    train(DIGITS, tmp_path / "auto", longer)
    assert build_experiment(load(DIGITS, longer), tmp_path / "auto").evaluator.batch_size == 16 // chosen


def test_limits_of_the_shell_count_with_what_is_taken(monkeypatch):
    monkeypatch.setattr(limits, "_kibibytes", lambda path: {"VmRSS": 1, "VmSize": 9, "VmData": 4, "MemAvailable": 70})
    monkeypatch.setattr(limits, "machine_memory", lambda: 100 * 1024)
    none = limits.resource.RLIM_INFINITY
    monkeypatch.setattr(limits.resource, "getrlimit", lambda kind: (none,))
    assert limits.free_memory() == 70 * 1024
    for kind, taken in ((limits.resource.RLIMIT_AS, 9), (limits.resource.RLIMIT_DATA, 4)):
        limited = {limits.resource.RLIMIT_AS: none, limits.resource.RLIMIT_DATA: none, kind: 50 * 1024}
        monkeypatch.setattr(limits.resource, "getrlimit", lambda kind, limited=limited: (limited[kind],))
        assert limits.free_memory() == (50 - taken) * 1024
