"""Signals that come where what they raise is lost."""

import contextlib
import signal

import pytest

from research.training.interruptions import Interrupted, Interruptions


def lost() -> None:
    """A library that catches everything, such as a callback of the garbage collector."""
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_was_lost_before_the_first_step_is_raised_there():
    with Interruptions():
        lost()
        with (
            pytest.raises(Interrupted, match="stopped by SIGTERM: the same"),
            Interruptions() as steps,
            steps.deferred(),
        ):
            raise AssertionError("no step is begun")


def test_one_that_is_lost_within_the_same_context():
    with pytest.raises(Interrupted, match="stopped by SIGTERM"), Interruptions() as steps:
        lost()
        with steps.deferred():
            raise AssertionError("no step is begun")


def test_later_runs_of_the_process_know_nothing_of_it():
    with pytest.raises(Interrupted), Interruptions():
        signal.raise_signal(signal.SIGTERM)
    with Interruptions() as steps, steps.deferred():
        assert not steps.reached(1)
        signal.raise_signal(signal.SIGTERM)
        assert steps.reached(2)
