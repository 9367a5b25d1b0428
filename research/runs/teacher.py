"""The teacher of a run: whether it can teach the run's task, and what the run's folder notes of it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.errors import UserError
from research.files import read_json, write_json
from research.tasks.task import Task, difference
from research.training.distillation import Distillation, Distilled
from research.training.inference import Inference

FILE = "teacher.json"

type Noted = Mapping[str, int | Mapping[str, list[int]]]
"""`step` and `crc` of the teacher's variables, and `maps`, the shape of each map to its states, where there are any."""


def check_teacher(task: Task, teacher: Task, folder: str) -> None:
    """Raises UserError unless the teacher's task has the answers of this one: the same classes, the same vocabulary."""
    if not isinstance(task, type(teacher)):
        raise UserError(
            f"distillation.teacher {folder} is a run of {type(teacher).__name__}, not of {type(task).__name__}: give a "
            "run of the same task"
        )
    names, theirs = (getattr(each, "class_names", ()) for each in (task, teacher))
    if names != theirs:
        raise UserError(
            f"distillation.teacher {folder} knows {difference(theirs, names)}: give a teacher that was trained on the "
            "classes of the data"
        )
    if task.token_ids() != teacher.token_ids():
        raise UserError(
            f"distillation.teacher {folder} has another vocabulary: take it by "
            f"task.tokenizer={{'path': '{folder}/tokenizer.json'}}, or give a teacher with the vocabulary of this run"
        )


def learning_from(
    options: Distillation, student: tuple[Inference, Any, Mapping[str, np.ndarray]], teacher: tuple[Inference, Any]
) -> Distilled:
    """The loss with a teacher. Raises UserError where the teacher does not fit the student.

    student: with its variables, or their shapes, and an example's batch. teacher: with its variables.
    """
    (own, variables, batch), (other, taught) = student, teacher
    check_teacher(own.task, other.task, options.teacher)
    distilled = Distilled(options, other)
    batch = {**batch, "weight": np.ones(1, np.float32)}
    return dataclasses.replace(distilled, maps=distilled.shapes(own.task, own.model, variables, taught, batch))


def keep_teacher(folder: Path, distilled: Distilled, step: int, crc: int) -> None:
    """Notes in the run's folder what its teacher is: the step of its variables, and their checksum.

    Raises UserError where another was noted before.
    """
    path = folder / FILE
    found: dict[str, Any] = {"step": step, "crc": crc}
    if distilled.maps:
        found["maps"] = {stack: [*shape] for stack, shape in distilled.maps.items()}
    if path.exists() and (noted := _read(path)) != found:
        raise UserError(
            f"distillation.teacher has changed since {folder} began (step {noted.get('step')} then, {step} now): "
            "restore it, or use another --workdir"
        )
    if jax.process_index() == 0:
        write_json(path, found)


def noted_maps(folder: Path) -> dict[str, tuple[int, int]]:
    """The shape of each map to the teacher's states, as the run's folder has them; {} before it began."""
    path = folder / FILE
    maps = _read(path).get("maps", {}) if path.exists() else {}
    if isinstance(maps, int) or any(len(shape) != 2 or min(shape) < 1 for shape in maps.values()):
        raise UserError(f"{path} is damaged: restore it from a copy")
    return {stack: (shape[0], shape[1]) for stack, shape in maps.items()}


def _read(path: Path) -> Noted:
    return read_json(path, dict[str, int | dict[str, list[int]]])
