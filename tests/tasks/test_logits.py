"""What a student learns from a teacher's logits, against float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.tasks import losses
from research.tasks.logits import Logits, divergence, teacher_loss

RANDOM = np.random.default_rng(0)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def expected(student, teacher, temperature):
    """Hinton et al. 2015, section 2, or the cross-entropy with the best class, at each place."""
    if temperature is None:
        return -np.take_along_axis(np.log(softmax(student)), teacher.argmax(-1)[..., None], -1)[..., 0]
    targets = softmax(teacher / temperature)
    return temperature**2 * (targets * np.log(targets / softmax(student / temperature))).sum(-1)


@pytest.mark.parametrize("temperature", [None, 1.0, 3.0])
def test_divergence_against_float64(temperature):
    student, teacher = RANDOM.normal(size=(2, 6, 5)) * 3
    found = divergence(jnp.asarray(student), jnp.asarray(teacher), temperature)
    np.testing.assert_allclose(found, expected(student, teacher, temperature), rtol=1e-4)


def test_a_certain_teacher_and_masked_places_are_finite():
    teacher = jnp.array([[90.0, 0.0, -1e9]])
    loss, gradient = jax.value_and_grad(lambda logits: divergence(logits.at[:, 2].set(-1e9), teacher, 0.001).sum())(
        jnp.ones((1, 3))
    )
    assert np.isfinite(loss) and np.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("bias", [False, True])
def test_logits_of_a_few_positions_at_a_time_give_the_loss_of_all(temperature, bias, monkeypatch):
    """Chunks of unequal size, with their gradients, beside whole logits of models of other widths."""
    monkeypatch.setattr(losses, "CHUNK", 4)
    states, taught = RANDOM.normal(size=(2, 7, 3)), RANDOM.normal(size=(2, 7, 5))
    tables = RANDOM.normal(size=(11, 3)), RANDOM.normal(size=(11, 5))
    biases = RANDOM.normal(size=(2, 11)) if bias else (None, None)
    weights = RANDOM.integers(0, 2, (2, 7)) * RANDOM.random((2, 7))
    parts = [jnp.asarray(each, jnp.float32) for each in (states, tables[0], biases[0] if bias else np.zeros(11))]
    teacher = Logits(*(None if each is None else jnp.float32(each) for each in (taught, weights, tables[1], biases[1])))

    def chunked(states, table, own):
        return teacher_loss(Logits(states, jnp.float32(weights), table, own if bias else None), teacher, temperature)

    def whole(states, table, own):
        logits = states @ table.T + own
        told = taught @ tables[1].T + (biases[1] if bias else 0)
        return teacher_loss(Logits(logits, jnp.float32(weights)), Logits(jnp.float32(told), weights), temperature)

    logits = states @ tables[0].T + (biases[0] if bias else 0)
    told = taught @ tables[1].T + (biases[1] if bias else 0)
    reference = (weights * expected(logits, told, temperature)).sum()
    assert float(chunked(*parts)) == pytest.approx(reference, rel=1e-4)
    for found, wanted in zip(jax.grad(chunked, (0, 1, 2))(*parts), jax.grad(whole, (0, 1, 2))(*parts), strict=True):
        np.testing.assert_allclose(found, wanted if bias or wanted.ndim > 1 else 0, atol=1e-4)


def test_shapes_and_rows():
    logits = Logits(jnp.zeros((2, 3, 4)), jnp.array([[1.0, 0, 2], [0, 0, 0]]), jnp.zeros((9, 4)))
    assert logits.shape == (2, 3, 9) and logits.row_weights.tolist() == [3, 0]
    assert Logits(jnp.zeros((2, 4)), jnp.ones(2)).shape == (2, 4)
