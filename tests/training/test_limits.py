"""What certainly does not fit into memory is refused before the first step, with the field to change."""

import dataclasses
import re

import numpy as np
import pytest

from research.analysis.cost import kept_products
from research.errors import UserError
from research.training import limits
from research.training.durations import Clock, Duration
from tests.training.toy import make_run

GIB = 2**30


@pytest.fixture
def memory(monkeypatch):
    """Sets the machine's memory, in bytes."""
    return lambda size: monkeypatch.setattr(limits, "machine_memory", lambda: size)


def sample(run):
    batch = run.batches.rows.first()
    return {name: np.zeros_like(array) for name, array in batch.items()}


def with_rows(run, batch_size):
    """The run with so many rows in a batch."""
    plan = dataclasses.replace(run.batches.plan, batch_size=batch_size)
    options = dataclasses.replace(run.options, batch_size=batch_size)
    return dataclasses.replace(run, options=options, batches=dataclasses.replace(run.batches, plan=plan))


def test_batches_that_fit_and_that_do_not(tmp_path, memory):
    run = make_run(tmp_path)
    memory(GIB)
    limits.check_memory(run, sample(run))
    row = sum(array.nbytes for array in sample(run).values())
    too_many = GIB // row  # so many rows alone fill the memory, of which every batch is there several times
    with pytest.raises(UserError, match=rf"training\.batch_size {too_many} needs .* use at most [\d,]+$") as caught:
        limits.check_memory(with_rows(run, too_many), sample(run))
    fitting = int(re.findall(r"[\d,]+", str(caught.value))[-1].replace(",", ""))
    assert 1 < fitting < too_many / 4
    limits.check_memory(with_rows(run, fitting), sample(run))


def test_a_state_that_does_not_fit_names_its_largest_array(tmp_path, memory):
    run = make_run(tmp_path)
    memory(16)
    with pytest.raises(UserError, match=r"the optimizer's state need .* of a device's .* \(the largest array is \w+/"):
        limits.check_memory(run, sample(run))


def test_the_machines_memory_is_that_of_its_control_group(tmp_path, monkeypatch):
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("4096\n")
    monkeypatch.setattr(limits, "CGROUPS", ((str(tmp_path / "absent"), "", ""), (str(tmp_path / "max"), "", "")))
    whole = limits.machine_memory()
    with open("/proc/meminfo") as file:
        total = int(re.search(r"MemTotal: +(\d+) kB", file.read())[1]) * 1024
    assert whole == pytest.approx(total, rel=0.01)
    monkeypatch.setattr(limits, "CGROUPS", ((str(tmp_path / "limit"), "", ""),))
    assert limits.machine_memory() == 4096
    monkeypatch.setattr(limits.resource, "getrlimit", lambda kind: (1024, 4096))
    assert limits.machine_memory() == 1024


def test_products_that_a_backward_pass_keeps():
    import jax
    import jax.numpy as jnp

    x = jnp.ones((4, 8))

    def chain(x):
        return x @ jnp.ones((8, 16)) @ jnp.ones((16, 2))

    assert kept_products(chain, x) == 4 * (4 * 16 + 4 * 2)
    assert kept_products(jax.checkpoint(chain), x) == 4 * 4 * 16
    assert kept_products(lambda x: jax.lax.scan(lambda x, _: (x @ jnp.ones((8, 8)), None), x, length=9)[0], x) == 128


def test_more_steps_than_32_bits_count():
    clock = Clock(steps_per_epoch=100, examples_per_step=10, tokens_per_step=50)
    assert clock.steps(Duration(epochs=2e7)) == 2_000_000_000
    for duration in (Duration(epochs=3e7), Duration(examples=1e300), Duration(tokens=1e30)):
        with pytest.raises(UserError, match=r"is more than 2,147,483,647 steps: use a shorter one"):
            clock.steps(duration)


@pytest.mark.parametrize("name", ["inactive_file", "total_inactive_file"])
def test_other_processes_of_a_control_group_have_their_part(name, tmp_path, monkeypatch):
    for file, text in {"limit": "9000", "used": "5000", "stat": f"cache 3\n{name} 700\n"}.items():
        (tmp_path / file).write_text(text)
    monkeypatch.setattr(limits, "machine_memory", lambda: 2**60)
    monkeypatch.setattr(limits, "CGROUPS", (tuple(str(tmp_path / file) for file in ("limit", "used", "stat")),))
    assert limits.free_memory() == 9000 - 5000 + 700
