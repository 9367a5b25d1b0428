"""The loss with a teacher, against float64 numpy: of every kind of task, with padding."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import build
from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.models.efficientformer import EfficientFormer
from research.models.vit import ViT
from research.runs.teacher import check_teacher
from research.tasks.classification import Classification
from research.tasks.language_modeling import LanguageModeling
from research.tasks.masked_images import MaskedImages
from research.tasks.masked_language import MaskedLanguage
from research.tasks.next_token import NextToken
from research.tasks.pretext import Pretext
from research.tasks.question_answering import QuestionAnswering
from research.tasks.segmentation import Segmentation
from research.tasks.text_classification import TextClassification
from research.tasks.token_classification import TokenClassification
from research.tasks.translation import Translation
from research.training.distillation import Distillation, Distilled
from research.training.inference import Inference
from tests.tasks.test_logits import expected, softmax
from tests.training.toy import FLOAT32

NAMES = ("ant", "bee", "cat")
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (4, 8, 8, 1), np.uint8)
WEIGHT = np.array([1, 1, 1, 0], np.float32)
TOKENS = np.array([[5, 6, 7, 0], [5, 6, 0, 0], [5, 6, 7, 8], [5, 5, 5, 5]], np.int32)
LABELS = np.array([[1, -1, 2, 0], [0, 1, 2, 2], [0, -1, -1, -1], [1, 1, 1, 1]], np.int32)
MASK = RANDOM.integers(0, 3, (4, 8, 8)).astype(np.uint8)
MASK[1, :, 4:], MASK[2] = 255, 255


class Vocabulary:
    """As much of one as losses need: 0 fills up."""

    pad, end_token, vocab_size = 0, 2, 9


class Fixed(nn.Module):
    """A model that says the same whatever it is asked: its parameters."""

    @nn.compact
    def __call__(self, *inputs, train=False):
        return self.get_variable("params", "logits")

    def features(self, *inputs, train=False):
        return self.get_variable("params", "states"), self.get_variable("params", "table")

    def masked_features(self, *inputs, train=False):
        rest = (self.get_variable("params", name) for name in ("bias", "follows"))
        return *self.features(*inputs), *rest


@dataclasses.dataclass(frozen=True)
class Case:
    """A task with a batch, the shapes of what a model says, and the weights of its places, [*places]."""

    task: Any
    batch: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    weights: np.ndarray


def text(task, **more):
    own = {"tokenizer": Tokenizer("word", vocab_size=300), "vocabulary": Vocabulary()}
    return task(**own, **more)


ROWS = {"tokens": TOKENS, "segments": np.zeros_like(TOKENS), "weight": WEIGHT}
SHARES = (MASK != 255) / np.maximum((MASK != 255).sum((1, 2), keepdims=True), 1)
LANGUAGE = {"states": (4, 3, 5), "table": (9, 5)}
MASKED = {"states": (4, 2, 5), "table": (9, 5), "bias": (9,), "follows": (4, 2)}
FOUND = {"places": np.array([[1, 2]] * 4), "labels": np.array([[3, 4]] * 4)}
FOUND |= {"masked": np.array([[1, 1], [1, 0], [1, 1], [1, 1]], np.float32), "other": np.array([0, 1, 1, 0])}
CASES = {
    "classification": Case(
        Classification(class_names=NAMES, label_smoothing=0.1),
        {"image": IMAGES, "label": np.array([0, 2, 1, 1]), "weight": WEIGHT},
        {"logits": (4, 3)},
        WEIGHT,
    ),
    "texts": Case(
        text(TextClassification, class_names=NAMES),
        ROWS | {"label": np.array([0, 2, 1, 1])},
        {"logits": (4, 3)},
        WEIGHT,
    ),
    "tags": Case(
        text(TokenClassification, class_names=NAMES),
        ROWS | {"labels": LABELS},
        {"logits": (4, 4, 3)},
        (LABELS >= 0) * WEIGHT[:, None],
    ),
    "next token": Case(
        text(NextToken),
        {"tokens": TOKENS, "label": np.array([1, 2, 3, 4]), "weight": WEIGHT},
        {"logits": (4, 4, 9)},
        WEIGHT,
    ),
    "segmentation": Case(
        Segmentation(class_names=NAMES, size=8),
        {"image": IMAGES, "mask": MASK, "weight": WEIGHT},
        {"logits": (4, 8, 8, 3)},
        SHARES * WEIGHT[:, None, None],
    ),
    "translation": Case(
        text(Translation, label_smoothing=0.1),
        {"source": TOKENS, "target_input": TOKENS[:, :3], "target_output": TOKENS[:, 1:], "weight": WEIGHT},
        LANGUAGE,
        (TOKENS[:, 1:] != 0) * WEIGHT[:, None],
    ),
    "language": Case(
        text(LanguageModeling, length=3),
        {"tokens": np.where(TOKENS, TOKENS, -1), "bytes": np.ones_like(TOKENS), "weight": WEIGHT},
        LANGUAGE,
        (TOKENS[:, 1:] != 0) * WEIGHT[:, None],
    ),
    "masked": Case(text(MaskedLanguage), ROWS | FOUND, MASKED, FOUND["masked"] * WEIGHT[:, None]),
}  # fmt: skip


def random_params(shapes, seed):
    random = np.random.default_rng(seed)
    return {"params": {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}}


def distilled(task, **options) -> Distilled:
    return Distilled(Distillation(teacher="", **options), Inference(Fixed(), task, FLOAT32))


def measured(task, batch, student, teacher, **options):
    """The metrics of a student and a teacher that say what their parameters are."""

    @jax.jit
    def both(student, teacher, batch):
        def apply(*inputs, method=None):
            return Fixed().apply(student, *inputs, method=method), {}

        metrics, _ = distilled(task, **options).loss(task, Fixed(), apply, batch, teacher, {})
        return metrics, task.loss(apply, batch)[0]

    return both(student, teacher, batch)


def whole(params) -> np.ndarray:
    """The logits of a model in float64."""
    given = {name: np.float64(array) for name, array in params["params"].items()}
    return given["states"] @ given["table"].T + given.get("bias", 0) if "states" in given else given["logits"]


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("name", CASES)
def test_the_loss_of_every_kind_of_task(name, kind):
    """A mean over the places that the task's own loss is a mean over, in the same weights."""
    case = CASES[name]
    student, teacher = random_params(case.shapes, 1), random_params(case.shapes, 2)
    metrics, own = measured(case.task, case.batch, student, teacher, kind=kind, weight=0.3)
    logits, told = whole(student), whole(teacher)
    if name == "next token":
        logits, told = logits[:, -1], told[:, -1]
    reference = (case.weights * expected(logits, told, 2.0 if kind == "soft" else None)).sum()
    total, weight = metrics["distillation_loss"]
    assert float(total) == pytest.approx(reference, rel=1e-4)
    assert float(weight) == float(own["loss"][1]) == pytest.approx(case.weights.sum(), rel=1e-5)
    mixed = 0.7 * float(own["loss"][0]) + 0.3 * reference
    assert float(metrics["loss"][0]) == pytest.approx(mixed, rel=1e-4)
    assert metrics.keys() == {*own, "distillation_loss"}
    rest = [each for each in own if each != "loss"]
    assert jax.tree.map(float, [metrics[each] for each in rest]) == jax.tree.map(float, [own[each] for each in rest])


@pytest.mark.parametrize("name", CASES)
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(name):
    case = CASES[name]
    params = random_params(case.shapes, 1)
    metrics, _ = measured(case.task, case.batch, params, params, weight=1.0)
    assert float(metrics["distillation_loss"][0]) == pytest.approx(0, abs=1e-5) == float(metrics["loss"][0])


def test_both_ends_of_an_answer_are_learnt_without_padding():
    task = text(QuestionAnswering, length=100, question_length=4, overlap=4)
    batch = ROWS | {"start": np.array([1, 0, 2, 0]), "end": np.array([2, 1, 3, 0])}
    student, teacher = (random_params({"logits": (4, 4, 2)}, seed) for seed in (1, 2))
    metrics, own = measured(task, batch, student, teacher)
    reference = 0.0
    for row, length in ((0, 3), (1, 2), (2, 4)):
        for end in (0, 1):
            logits, told = (np.float64(each["params"]["logits"][row, :length, end]) for each in (student, teacher))
            reference += expected(logits, told, 2.0) / 2
    assert float(metrics["distillation_loss"][0]) == pytest.approx(reference, rel=1e-4)
    assert float(metrics["distillation_loss"][1]) == float(own["loss"][1]) == 3


def test_each_of_several_labels_is_learnt_by_itself():
    task = text(TextClassification, kind="labels", class_names=NAMES)
    labels = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]], np.float32)
    student, teacher = (random_params({"logits": (4, 3)}, seed) for seed in (1, 2))
    metrics, _ = measured(task, ROWS | {"label": labels}, student, teacher)
    logits, told = (np.float64(each["params"]["logits"])[..., None] * [0, 1] for each in (student, teacher))
    reference = expected(logits, told, 2.0).mean(-1)[:3].sum()
    assert float(metrics["distillation_loss"][0]) == pytest.approx(reference, rel=1e-4)


def test_both_parts_of_berts_pretraining_are_learnt():
    case = CASES["masked"]
    task = dataclasses.replace(case.task, next_sentence=True)
    student, teacher = random_params(case.shapes, 1), random_params(case.shapes, 2)
    metrics, _ = measured(task, case.batch, student, teacher)
    tokens = (case.weights * expected(whole(student), whole(teacher), 2.0)).sum()
    follows = (np.float64(each["params"]["follows"]) for each in (student, teacher))
    pairs = (WEIGHT * expected(*follows, 2.0)).sum() / WEIGHT.sum()
    reference = tokens + pairs * case.weights.sum()
    assert float(metrics["distillation_loss"][0]) == pytest.approx(reference, rel=1e-4)


MIXED = {"image": IMAGES, "label": np.array([0, 2, 1, 1]), "mix": np.float32([1.0, 0.7, 0.2, 0.5]), "weight": WEIGHT}


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_last_head_learns_from_the_teacher_and_the_first_from_the_labels(kind):
    heads, teacher = np.random.default_rng(1).normal(size=(2, 4, 3)), random_params({"logits": (4, 3)}, 2)

    class TwoHeads(Fixed):
        def all_heads(self, *inputs, train=False):
            return tuple(map(jnp.float32, heads))

    def apply(*inputs, method=None):
        return TwoHeads().apply({}, *inputs, method=method), {}

    task = Classification(class_names=NAMES)
    learning = distilled(task, kind=kind, weight=0.3)
    metrics, _ = learning.loss(task, TwoHeads(), apply, task.mixed(MIXED), teacher, {})
    mix, rows = np.float64(MIXED["mix"]), np.arange(4)
    likelihood = -np.log(softmax(heads[0]))
    labels = mix * likelihood[rows, MIXED["label"]] + (1 - mix) * likelihood[rows, np.roll(MIXED["label"], 1)]
    told = expected(heads[1], whole(teacher), 2.0 if kind == "soft" else None)
    assert float(metrics["loss"][0]) == pytest.approx((0.7 * labels + 0.3 * told)[:3].sum(), rel=1e-4)
    right = heads.mean(0).argmax(-1)[:3] == MIXED["label"][:3]
    assert float(metrics["accuracy"][0]) == right.sum()  # of the mean of both heads


@pytest.mark.parametrize(
    "model",
    [
        ViT(3, 4, 16, 1, 2, 16, distillation=True),
        EfficientFormer(3, (1, 1), (16, 16), num_attention=0),
        ViT(3, 4, 16, 1, 2, 16),
    ],
)
def test_each_head_gets_its_own_gradient(model):
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((4, 8, 8, 1)))
    state = {name: tree for name, tree in variables.items() if name != "params"}
    task = Classification(class_names=NAMES)
    teacher = {"params": {"logits": jnp.zeros((4, 3)).at[:, 2].set(1.0)}}

    def loss(params):
        def apply(*inputs, method):
            return model.apply({"params": params, **state}, *inputs, train=True, method=method, mutable=list(state))

        learning = distilled(task, kind="hard", weight=1.0)
        return learning.loss(task, model, apply, task.mixed(MIXED), teacher, {})[0]["loss"][0]

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    learns = "head_distillation" if "head_distillation" in gradients else "head"
    assert np.abs(gradients[learns]["bias"]).max() > 0.1
    assert learns == "head" or np.abs(gradients["head"]["bias"]).max() == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "warm"}, "distillation.kind must be Literal.*got 'warm'"),
        ({"weight": 1.5}, "distillation.weight is 1.5: use 0 or more and at most 1"),
        ({"temperature": 0.0}, "distillation.temperature is 0.0: use 0.001 or more"),
        ({"hidden": -1.0}, "distillation.hidden is -1.0"),
        ({"attention": -1.0}, "distillation.attention is -1.0"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        build(Distillation, {"teacher": "", **options}, "distillation")


def test_teachers_with_other_answers_are_refused():
    task, other = Classification(class_names=NAMES), Classification(class_names=(*NAMES, "dog"))
    check_teacher(task, dataclasses.replace(task, mixup=0.5), "runs/t")
    with pytest.raises(UserError, match=r"4 classes, not 3 \(the first that differ: 'dog', not None\)"):
        check_teacher(task, other, "runs/t")
    with pytest.raises(UserError, match=r"3 classes, not 3 .*'cow', not 'cat'"):
        check_teacher(task, dataclasses.replace(other, class_names=("ant", "bee", "cow")), "runs/t")
    with pytest.raises(UserError, match="runs/t is a run of Pretext, not of Classification: give a run of the same"):
        check_teacher(task, Pretext(), "runs/t")


def test_tasks_without_logits_say_so():
    for task, name in ((MaskedImages(patch_size=4), "MaskedImages"), (Pretext(), "Pretext")):
        with pytest.raises(UserError, match=f"{name} has no logits to distil: leave the section distillation out"):
            task.logits(lambda *inputs, method=None: (jnp.zeros(1), {}), {})
    with pytest.raises(UserError, match="a number has no logits to distil"):
        text(TextClassification, kind="number").logits(lambda *inputs, method=None: (jnp.zeros(1), {}), {})


def test_a_teacher_with_other_outputs_is_refused():
    case = CASES["language"]
    teacher = random_params(case.shapes | {"table": (10, 5)}, 2)
    with pytest.raises(UserError, match=r"logits of the shape \[4, 3, 10\], and the model of \[4, 3, 9\]: give a teac"):
        measured(case.task, case.batch, random_params(case.shapes, 1), teacher)
