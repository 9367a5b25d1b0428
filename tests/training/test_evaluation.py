"""Answers that are joined from several rows, scores that stream, metrics that are arrays, and the best by a score."""

import dataclasses

import jax
import numpy as np
import pytest

from research.data.rows import Rows
from research.errors import UserError
from research.parallel.mesh import MeshShape, make_mesh
from research.tasks.task import Task
from research.training.checkpoints import CheckpointPolicy, Checkpoints
from research.training.durations import Duration
from research.training.evaluation import Evaluator, few_shapes, means
from research.training.inference import Inference
from research.training.loggers import read_metrics
from research.training.loop import fit
from tests.training.toy import FLOAT32, Linear, Regression, make_run

TEXTS = ("abcde", "", "fg", "hijklmnopq", "r")


@dataclasses.dataclass(frozen=True)
class Windows(Rows):
    """Rows of two letters; an example has as many as it needs, at least one, and they lie in a mixed order."""

    texts: tuple[str, ...]

    def _rows(self):
        rows = [(index, start) for index, text in enumerate(self.texts) for start in range(0, max(len(text), 1), 2)]
        return [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]

    def __len__(self):
        return len(self._rows())

    def owners(self):
        return np.array([owner for owner, _ in self._rows()], np.int64)

    def batch(self, indices, epochs, length):
        pieces = [self.texts[owner][start : start + 2] for owner, start in (self._rows()[index] for index in indices)]
        codes = [[ord(letter) for letter in piece.ljust(2, "\0")] for piece in pieces]
        starts = [self._rows()[index][1] for index in indices]
        return {"codes": np.array(codes, np.int32), "start": np.array(starts, np.int32)}


class Upper(Task):
    """Answers a text in capitals, joined from its windows."""

    def rows(self, examples, *, train, seed):
        return Windows(tuple(example["text"] for example in examples))

    def predict(self, model, variables, batch):
        return {"letters": batch["codes"] - 32 * (batch["codes"] > 0), "start": batch["start"]}

    def answer(self, example, rows):
        ordered = sorted(rows, key=lambda row: int(row["start"]))
        text = "".join(chr(code) for row in ordered for code in row["letters"] if code)
        return {"text": text, "question": example["text"]}

    def scorer(self):
        return Count()


class Count:
    names = ("right",)

    def __init__(self):
        self.seen, self.right = 0, 0

    def add(self, example, answer):
        self.seen += 1
        self.right += answer["text"] == example["text"].upper()

    def result(self):
        return {"right": self.right / self.seen, "seen": self.seen}

    def signatures(self):
        return {}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_an_answer_is_made_of_all_rows_of_its_example(batch_size):
    evaluator = Evaluator(Inference(Linear(), Upper(), FLOAT32), make_mesh(MeshShape()), batch_size)
    examples = [{"text": text} for text in TEXTS]
    answers = dict(evaluator.answers({"params": {}}, evaluator.split(examples)))
    assert answers == {index: {"text": text.upper(), "question": text} for index, text in enumerate(TEXTS)}
    assert evaluator.scores({"params": {}}, evaluator.split(examples)) == {"right": 1.0, "seen": 5}


def test_metrics_may_be_arrays():
    totals = {"loss": np.array([6.0, 3.0]), "iou": np.array([[1.0, 0.0, 3.0], [2.0, 0.0, 4.0]])}
    assert means(totals) == {"loss": 2.0, "iou/0": 0.5, "iou/1": 0.0, "iou/2": 0.75}


class Lengths(Rows):
    longest = 50

    def __init__(self, lengths):
        self.each = np.array(lengths, np.int64)

    def __len__(self):
        return len(self.each)

    def lengths(self):
        return self.each

    def batch(self, indices, epochs, length):
        return {"length": self.each[indices]}


def test_few_shapes_for_any_rows():
    seen = set()
    for lengths in ([1], [3, 5], [8, 9, 50], [17] * 9, list(range(1, 51))):
        plan, read = few_shapes(Lengths(lengths), 16), []
        for step in range(int(plan.steps_per_epoch)):
            selection = plan(step)
            seen.add((len(selection.indices), selection.length))
            own = [index for index in selection.indices if index >= 0]
            assert max(lengths[index] for index in own) <= selection.length <= 50
            read += own
        assert sorted(read) == list(range(len(lengths)))
    assert {count for count, _ in seen} <= {1, 2, 4, 8, 16} and {length for _, length in seen} <= {8, 16, 32, 50}


@dataclasses.dataclass(frozen=True)
class Scored(Regression):
    """Its score is how near the answers are; the best is that of the least `distance`."""

    def predict(self, model, variables, batch):
        return model.apply(variables, batch["x"], train=False) - batch["y"]

    def answer(self, example, rows):
        return {"text": str(abs(float(rows[0])))}

    def scorer(self):
        return Distance()


class Distance(Count):
    names = ("distance",)

    def add(self, example, answer):
        self.seen += 1
        self.right += float(answer["text"])

    def result(self):
        return {"distance": self.right / self.seen}


def test_a_score_decides_which_checkpoint_is_the_best(tmp_path):
    """Also after a stop: the same scores, the same best and the same parameters as without one."""
    policy = CheckpointPolicy(every=Duration(steps=5), keep=9, best="validation/distance", mode="min")
    whole = make_run(tmp_path / "whole", steps=20, task=Scored())
    with Checkpoints(tmp_path / "whole/checkpoints", policy) as checkpoints:
        state, _ = fit(whole, checkpoints)
        checkpoints.wait()
        best = checkpoints.evaluation_steps()
    rows = {row["step"]: row["validation/distance"] for row in read_metrics(tmp_path / "whole/metrics.jsonl")
            if "validation/distance" in row}  # fmt: skip
    assert sorted(rows) == [5, 10, 15, 20] and best == [min(rows, key=rows.get)]
    kernel = np.float64(state.params["out"]["kernel"])[:, 0]
    batch = Regression().rows([{}] * 8, train=False, seed=0).first(8)
    distance = np.abs(np.float64(batch["x"]) @ kernel + float(state.params["out"]["bias"][0]) - batch["y"]).mean()
    assert rows[20] == pytest.approx(distance, rel=1e-4)
    for steps in (10, 20):
        run = make_run(tmp_path / "parts", steps=20, task=Scored())
        batches = dataclasses.replace(run.batches, num_steps=steps)
        with Checkpoints(tmp_path / "parts/checkpoints", policy) as checkpoints:
            again, _ = fit(dataclasses.replace(run, batches=batches), checkpoints)
    jax.tree.map(np.testing.assert_array_equal, state.params, again.params)


def test_a_best_score_is_compared_where_it_is_measured_and_at_the_end(tmp_path):
    policy = CheckpointPolicy(best="validation/distance", mode="min")
    run = make_run(tmp_path, steps=20, task=Scored(), score_every=Duration(steps=8))
    with Checkpoints(tmp_path / "checkpoints", policy) as checkpoints:
        fit(run, checkpoints)
        checkpoints.wait()
        best = checkpoints.evaluation_steps()
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "validation/loss" in row]
    assert [row["step"] for row in rows] == [5, 8, 10, 15, 16, 20]
    distances = {row["step"]: row["validation/distance"] for row in rows if "validation/distance" in row}
    assert list(distances) == [8, 16, 20] and best == [min(distances, key=distances.get)]


def test_rows_of_the_validation_split_are_made_once(tmp_path, monkeypatch):
    made = []
    rows = Scored.rows
    monkeypatch.setattr(Scored, "rows", lambda *arguments, **options: made.append(1) or rows(*arguments, **options))
    run = make_run(tmp_path, steps=20, task=Scored(), score_every=Duration(steps=5))
    before = len(made)
    with Checkpoints(tmp_path / "checkpoints", CheckpointPolicy()) as checkpoints:
        fit(run, checkpoints)
    assert len(made) - before == 2  # with answers and without, for four evaluations


@pytest.mark.parametrize("every", [None, 10])
def test_scores_have_a_cadence_of_their_own(tmp_path, every):
    options = {"score_every": Duration(steps=every)} if every else {}
    run = make_run(tmp_path, steps=20, task=Scored(), **options)
    with Checkpoints(tmp_path / "checkpoints", CheckpointPolicy()) as checkpoints:
        fit(run, checkpoints)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    measured = {name: [row["step"] for row in rows if f"validation/{name}" in row] for name in ("loss", "distance")}
    assert measured == {"loss": [5, 10, 15, 20], "distance": [10, 20] if every else []}


def test_options_of_answers_are_checked():
    from research.config import build
    from research.tasks.language_modeling import LanguageModeling

    task = build(LanguageModeling, {"tokenizer": {"kind": "character"}, "length": 8}, "task")
    assert task.answering(temperature=0.5, top_k=3).temperature == 0.5 and task.answering() == task
    with pytest.raises(UserError, match=r"temperature is 0\.0: use 0\.001 or more"):
        task.answering(temperature=0)
    with pytest.raises(UserError, match="beam is not an option of answers: use one of temperature, top_k"):
        task.answering(beam=4)
    with pytest.raises(UserError, match="length is not an option"):
        task.answering(length=4)
