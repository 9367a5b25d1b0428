import math

import numpy as np
import pytest

from research.config import build
from research.errors import UserError
from research.training.durations import Clock, Duration
from research.training.schedules import Constant, Cosine, Drop, InverseSqrt, Linear, Noam

CLOCK = Clock(steps_per_epoch=12.5, examples_per_step=8, tokens_per_step=160)


def values(schedule, total=100):
    factor = schedule.build(total, CLOCK)
    return np.array([float(factor(step)) for step in range(total)])


def test_noam_is_equation_3():
    # d_model^-0.5 * min(step_num^-0.5, step_num * warmup_steps^-1.5), step_num from 1
    expected = [512**-0.5 * min(step**-0.5, step * 20**-1.5) for step in range(1, 101)]
    np.testing.assert_allclose(values(Noam(512, Duration(steps=20))), expected, rtol=1e-6)


def test_noam_peak_of_the_paper():
    factor = Noam(512, Duration(steps=4000)).build(100_000, CLOCK)
    assert float(factor(3999)) == pytest.approx(6.9877e-4, rel=1e-4)


def test_drop():
    expected = [min((step + 1) / 4, 1) * (1 if step < 75 else 0.2) for step in range(100)]
    np.testing.assert_allclose(values(Drop(0.75, 0.2, Duration(steps=4))), expected, rtol=1e-6)


def test_inverse_sqrt():
    expected = [min(step / 20, math.sqrt(20 / step)) for step in range(1, 101)]
    np.testing.assert_allclose(values(InverseSqrt(Duration(steps=20))), expected, rtol=1e-6)


def test_cosine_and_linear_warm_up_and_end():
    for schedule, middle in ((Cosine(Duration(steps=10), 0.1), None), (Linear(Duration(steps=10), 0.1), 0.55)):
        curve = values(schedule)
        np.testing.assert_allclose(curve[:10], np.arange(1, 11) / 10, rtol=1e-6)
        assert curve.max() == 1 and (np.diff(curve[10:]) <= 0).all()
        assert curve[55] == pytest.approx(0.1 + 0.9 * (middle or 0.5) if middle is None else middle, abs=1e-6)
        assert curve[-1] < 0.12


def test_constant():
    assert values(Constant()).tolist() == [1] * 100


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (Duration(steps=7), 7),
        (Duration(epochs=2), 25),
        (Duration(examples=17), 3),
        (Duration(tokens=161), 2),
        (Duration(epochs=0.1), 2),
    ],
)
def test_durations(duration, steps):
    assert CLOCK.steps(duration) == steps


def test_durations_have_exactly_one_unit():
    with pytest.raises(UserError, match="steps and epochs"):
        Duration(steps=1, epochs=2)
    with pytest.raises(UserError, match="no unit"):
        Duration()
    with pytest.raises(UserError, match="steps is -1: use 0 or more"):
        build(Duration, {"steps": -1}, "duration")
    with pytest.raises(UserError, match="tokens has no meaning"):
        Clock(1, 1, None).steps(Duration(tokens=5))
