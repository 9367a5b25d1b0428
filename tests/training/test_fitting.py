"""The number of micro-batches that memory asks for."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from research.analysis import cost
from research.config import load
from research.data.plans import Bucket, Bucketed
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
        assert choose_micro_batches(run) == expected == kept_micro_batches(tmp_path, run.options.batch_size, 1)
        assert f"{expected} micro-batch" in capsys.readouterr().out
    assert kept_micro_batches(tmp_path, run.options.batch_size, 2) is None, "other devices"
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
    chosen = json.loads((tmp_path / "auto" / "micro_batches.json").read_text())["1"]
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


@pytest.mark.parametrize("kept", [-2, 0, 5, 10**12, 2**17])
def test_a_kept_number_that_fits_no_batch_is_set_aside(kept, tmp_path):
    for ways in (1, 2):
        (tmp_path / "micro_batches.json").write_text(json.dumps({"1": kept, "2": kept}))
        assert kept_micro_batches(tmp_path, 16, ways) is None
        assert not (tmp_path / "micro_batches.json").exists()
    (tmp_path / "micro_batches.json").write_text('{"1": 4, "2": 8}')
    assert [kept_micro_batches(tmp_path, 16, ways) for ways in (1, 2, 4)] == [4, 8, None]
    assert kept_micro_batches(tmp_path, None, 1) == 4


def test_the_dearest_batch_is_of_the_largest_images_whenever_they_come():
    """Heights and widths: 640 x 1000 are more pixels than 800 x 200."""
    buckets = (Bucket((800, 200), 4), Bucket((640, 1000), 4))
    lengths = np.array([(800, 200)] * 400 + [(640, 1000)] * 4)
    plan = Bucketed(lengths, lengths.prod(axis=1), buckets, seed=0)
    run = types.SimpleNamespace(batches=Kept(plan))
    assert dearest_batch(run) == (640, 1000)


class Kept:
    """Batches that are their own lengths."""

    def __init__(self, plan):
        self.plan = plan

    def __len__(self):
        return 1000

    def __getitem__(self, step):
        return self.plan(step).length


def test_what_compares_examples_is_not_cut_by_memory(tmp_path):
    spec = "configs/language/sentences.py:data=stories,tiny"
    with pytest.raises(UserError, match=r"training\.accumulate auto would change what the loss compares: set it to"):
        build_experiment(load(spec, {"training.accumulate": "auto"}), tmp_path)
    fixed = build_experiment(load(spec, {"training.accumulate": "2"}), tmp_path)
    assert fixed.evaluator.batch_size == fixed.options.batch_size
    with pytest.raises(UserError, match=r"training\.accumulate must be int or 'auto', got 'Auto'"):
        build_experiment(load(spec, {"training.accumulate": "Auto"}), tmp_path)


def test_a_device_that_tells_nothing_of_its_memory(tmp_path, monkeypatch):
    run = build_experiment(load(DIGITS), tmp_path, jax.devices()[:1]).run
    device = types.SimpleNamespace(platform="strange", device_kind="Strange One", memory_stats=lambda: None)
    run = dataclasses.replace(run, mesh=types.SimpleNamespace(local_devices=[device]))
    with pytest.raises(UserError, match=r"Strange One does not tell how much memory it has: set training\.accumulate"):
        fitting._available(run, {})


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
