import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import build
from research.errors import UserError
from research.models.efficientformer import EfficientFormer
from research.models.vit import ViT
from research.tasks.classification import Classification
from research.tasks.distillation import Distillation, teacher_loss
from research.tasks.pretext import Pretext

NAMES = ("ant", "bee", "cat")
BATCH = {
    "image": np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8),
    "label": np.array([0, 2, 1, 1], np.int32),
    "mix": np.array([1.0, 0.7, 0.2, 0.5], np.float32),
    "weight": np.array([1, 1, 1, 0], np.float32),
}


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def heads_of(count):
    """An `apply` whose model has so many heads, and their logits."""
    logits = np.random.default_rng(1).normal(size=(count, 4, 3))

    def apply(images, method=None):
        class Model:
            def __call__(self, images, *, train):
                return jnp.asarray(logits.mean(0))

        model = Model()
        if count > 1:
            model.all_heads = lambda images, *, train: tuple(map(jnp.asarray, logits))
        return (model(images, train=True) if method is None else method(model, images, train=True)), {}

    return apply, logits


@pytest.mark.parametrize("temperature", [None, 1.0, 3.0])
def test_teacher_loss_against_float64(temperature):
    random = np.random.default_rng(0)
    logits, teacher = random.normal(size=(2, 6, 5)) * 3
    if temperature is None:
        expected = -np.log(softmax(logits))[np.arange(6), teacher.argmax(-1)]
    else:
        targets, student = softmax(teacher / temperature), softmax(logits / temperature)
        expected = temperature**2 * (targets * np.log(targets / student)).sum(-1)
    probabilities = jnp.asarray(softmax(teacher), jnp.float32)
    np.testing.assert_allclose(teacher_loss(jnp.asarray(logits), probabilities, temperature), expected, rtol=1e-4)


def test_a_certain_teacher_is_finite():
    teacher = jnp.array([[1.0, 0.0, 0.0]])
    loss, gradient = jax.value_and_grad(lambda logits: teacher_loss(logits, teacher, 2.0).sum())(jnp.zeros((1, 3)))
    assert np.isfinite(loss) and np.isfinite(gradient).all()


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_last_head_learns_from_the_teacher_and_the_first_from_the_labels(kind, heads):
    apply, logits = heads_of(heads)
    teacher = softmax(np.random.default_rng(2).normal(size=(4, 3)))
    task = Distillation(teacher="", kind=kind, weight=0.3, temperature=2.0, class_names=NAMES)
    metrics, _ = task.loss(apply, task.mixed(BATCH), lambda batch: jnp.asarray(teacher, jnp.float32))
    mix, rows = np.float64(BATCH["mix"]), np.arange(4)
    likelihood = -np.log(softmax(logits[0]))
    labels = mix * likelihood[rows, BATCH["label"]] + (1 - mix) * likelihood[rows, np.roll(BATCH["label"], 1)]
    if kind == "hard":
        distilled = -np.log(softmax(logits[-1]))[rows, teacher.argmax(-1)]
    else:
        targets, student = softmax(np.log(teacher) / 2), softmax(logits[-1] / 2)
        distilled = 4 * (targets * np.log(targets / student)).sum(-1)
    expected = 0.7 * labels + 0.3 * distilled
    assert float(metrics["loss"][0]) == pytest.approx(expected[:3].sum(), rel=1e-4)
    right = logits.mean(0).argmax(-1)[:3] == BATCH["label"][:3]
    assert float(metrics["accuracy"][0]) == right.sum()  # of the mean of both heads


def test_without_answers_of_a_teacher_it_is_classification():
    apply, _ = heads_of(2)
    plain, _ = Classification(class_names=NAMES).loss(apply, BATCH)
    distilled, _ = Distillation(teacher="", class_names=NAMES).loss(apply, BATCH)
    assert jax.tree.map(float, plain) == jax.tree.map(float, distilled)


@pytest.mark.parametrize(
    "model",
    [
        ViT(3, 4, 16, 1, 2, 16, distillation=True),
        EfficientFormer(3, (1, 1), (16, 16), num_attention=0),
        ViT(3, 4, 16, 1, 2, 16),
    ],
)
def test_each_head_gets_its_own_gradient(model):
    images = jnp.zeros((4, 8, 8, 1))
    variables = model.init(jax.random.key(0), images)
    state = {name: tree for name, tree in variables.items() if name != "params"}
    task = Distillation(teacher="", weight=1.0, class_names=NAMES)

    def loss(params):
        def apply(*inputs, method):
            return model.apply({"params": params, **state}, *inputs, train=True, method=method, mutable=list(state))

        teacher = jnp.full((4, 3), 1 / 3).at[:, 2].set(0.5)
        return task.loss(apply, task.mixed(BATCH), lambda batch: teacher)[0]["loss"][0]

    gradients = jax.grad(loss)(variables["params"])
    learns = "head_distillation" if "head_distillation" in gradients else "head"
    assert np.abs(gradients[learns]["bias"]).max() > 0.1
    assert learns == "head" or np.abs(gradients["head"]["bias"]).max() == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "warm"}, "task.kind must be Literal.*got 'warm'"),
        ({"weight": 1.5}, "task.weight is 1.5: use 0 or more and at most 1"),
        ({"temperature": 0.0}, "task.temperature is 0.0: use 0.001 or more"),
        ({"cutmix": -1.0}, "task.cutmix is -1.0"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        build(Distillation, {"teacher": "", **options}, "task")


def test_a_teacher_of_other_classes_is_refused():
    task = Distillation(teacher="runs/t", class_names=NAMES)
    task.check_teacher(Classification(class_names=NAMES), "runs/t")
    other = Classification(class_names=(*NAMES, "dog"))
    with pytest.raises(UserError, match=r"4 classes, not 3 \(the first that differ: 'dog', not None\)"):
        task.check_teacher(other, "runs/t")
    with pytest.raises(UserError, match=r"3 classes, not 3 .*'cow', not 'cat'"):
        task.check_teacher(dataclasses.replace(other, class_names=("ant", "bee", "cow")), "runs/t")
    with pytest.raises(UserError, match="runs/t does not classify images"):
        task.check_teacher(Pretext(), "runs/t")
