"""A trained run that is opened once and then answers any number of inputs."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from research.runs.experiment import Experiment, open_run
from research.tasks.task import Example, Task
from research.training.checkpoints import Checkpoints
from research.training.evaluation import Evaluator, few_shapes
from research.training.stored import restored

REMEMBERED = 16
"""Choices of options whose programs are kept."""


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A model with its variables and its task: `Predictor.open("runs/demo").answer(["January 5, 2024"])`.

    The first answer compiles a program for its shape; later ones of a similar size use it again, and read no files.
    """

    evaluator: Evaluator
    kept: Mapping[str, Any]
    step: int
    _others: dict[str, Evaluator] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @classmethod
    def open(cls, folder: Path | str, checkpoint: int | str | None = None) -> Self:
        """That of a run's folder, at its best or latest checkpoint, or the one of a step, "best" or "last".

        Raises UserError where there is none.
        """
        return cls.of(open_run(Path(folder), checkpoint))

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """That of an experiment which was trained."""
        with Checkpoints(experiment.folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
            kept, step = experiment.kept_variables(checkpoints)
        return cls(experiment.evaluator, kept, step)

    @property
    def variables(self) -> Mapping[str, Any]:
        """What the model itself is applied with: float32, however the parameters are kept."""
        return {**self.kept, "params": restored(self.kept["params"])}

    @property
    def task(self) -> Task:
        """The task, with the options of the run's config."""
        return self.evaluator.inference.task

    def answer(self, inputs: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
        """One answer for each input, in their order: texts, or paths or uint8 arrays [height, width, channels] of
        images.

        An answer is a dict with `text`, or `label` and `probability`. options: other options of the answers than those
        of the run's config, such as `beam_size=4` or `temperature=0.5`. Raises UserError for an input or an option that
        the run cannot take.
        """
        return self.answers([self.task.example(item) for item in inputs], **options)

    @property
    def streams(self) -> bool:
        """Whether answers come one token after another, so that `stream` shows them as they grow."""
        return type(self.task).stream is not Task.stream

    def stream(self, item: Any, **options: Any) -> Iterator[dict[str, Any]]:
        """The answer to one input as it grows; the last one is that of `answer`, for tasks whose `streams` is true."""
        return self.grow(self.task.example(item), **options)

    def grow(self, example: Example, **options: Any) -> Iterator[dict[str, Any]]:
        """The same for an example as the run's data have it."""
        return self._with(options).stream(self.kept, example)

    def answers(self, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """The same for examples as the run's data have them; their own answers are not looked at."""
        if not examples:
            return []
        evaluator = self._with(options)
        split = evaluator.split(examples)
        found = dict(evaluator.answers(self.kept, split, few_shapes(split.questions, evaluator.batch_size)))
        return [found[index] for index in range(len(examples))]

    def _with(self, options: Mapping[str, Any]) -> Evaluator:
        """The evaluator whose task has these options, remembered with what it compiled."""
        if not options:
            return self.evaluator
        task, key = self.task.answering(**options), repr(sorted(options.items()))
        if key not in self._others:
            while len(self._others) >= REMEMBERED:
                del self._others[next(iter(self._others))]
            inference = dataclasses.replace(self.evaluator.inference, task=task)
            self._others[key] = dataclasses.replace(self.evaluator, inference=inference)
        return self._others[key]
