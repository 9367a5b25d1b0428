"""One thread for each run that is served: it answers what waits together, as a batch costs little more than one."""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from research.errors import UserError
from research.runs.predictor import Predictor
from research.tasks.task import Example, Task

WAITING = 1024
"""Questions that may wait for one run; more are refused rather than kept."""


class Busy(Exception):
    """Too many questions wait already."""


@dataclasses.dataclass(eq=False)
class Job:
    """A question: its answer comes in `future`, or `show` is given the answer as it grows."""

    example: Example
    options: Mapping[str, Any]
    future: Future = dataclasses.field(default_factory=Future)
    show: Callable[[dict[str, Any]], bool] | None = None
    """Says whether anybody still listens."""

    @property
    def kind(self) -> str:
        """What jobs have in common that are answered together."""
        return repr(sorted(self.options.items()))


@dataclasses.dataclass
class Counts:
    """What a worker has done."""

    answers: int = 0
    batches: int = 0
    failures: int = 0
    seconds: float = 0.0


class Worker:
    """Answers the questions to one run.

    The first question is taken at once, and all that came meanwhile are the next batch: nobody waits for others.
    """

    def __init__(self, predictor: Predictor):
        self.predictor, self.counts = predictor, Counts()
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Questions that are not yet begun."""
        return len(self._jobs)

    def check(self, item: Any, options: Mapping[str, Any]) -> Example:
        """An input as the task's example. Raises UserError for what this run cannot take."""
        task = self.predictor.task.answering(**options)
        example = task.example(item)
        task.questions([example]).first()
        return example

    def submit(self, *jobs: Job) -> list[Future]:
        """Takes all of these questions, or raises Busy and takes none."""
        with self._changed:
            if self._closed or len(self._jobs) + len(jobs) > WAITING:
                raise Busy
            self._jobs.extend(jobs)
            self._changed.notify()
        return [job.future for job in jobs]

    def close(self) -> None:
        """Ends the thread after what it is at; what waits is refused."""
        with self._changed:
            self._closed = True
            while self._jobs:
                if (future := self._jobs.popleft().future).set_running_or_notify_cancel():
                    future.set_exception(Busy())
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            first, began = batch[0], time.perf_counter()
            try:
                if first.show is not None:
                    first.future.set_result(self._stream(first, first.show))
                else:
                    self._answer(batch)
            except Exception as error:  # of one question, which must not end the thread
                self.counts.failures += 1
                if not first.future.done():
                    first.future.set_exception(error)
            self.counts.seconds += time.perf_counter() - began

    def _next(self) -> list[Job]:
        """The jobs to answer together: those like the first one, in order; none once the worker is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return []
            first = self._jobs.popleft()
            if first.show is not None:
                return [first]
            like = [job for job in self._jobs if job.show is None and job.kind == first.kind]
            batch = [first, *like[: self.predictor.evaluator.batch_size - 1]]
            self._jobs = deque(job for job in self._jobs if job not in batch)
        return batch

    def _answer(self, batch: list[Job]) -> None:
        jobs = [job for job in batch if job.future.set_running_or_notify_cancel()]
        self.counts.batches += 1
        try:
            answers = self.predictor.answers([job.example for job in jobs], **batch[0].options)
        except Exception as error:
            self.counts.failures += 1
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # one of them is bad: the others shall not suffer for it
                self._alone(job)
            return
        self.counts.answers += len(jobs)
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)

    def _alone(self, job: Job) -> None:
        try:
            job.future.set_result(self.predictor.answers([job.example], **job.options)[0])
            self.counts.answers += 1
        except Exception as error:
            job.future.set_exception(error)

    def _stream(self, job: Job, show: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for answer in self._growing(job):
            if not show(answer):
                break
        self.counts.answers += 1
        return answer

    def _growing(self, job: Job) -> Iterator[dict[str, Any]]:
        if not self.predictor.streams:
            yield self.predictor.answers([job.example], **job.options)[0]
            return
        yield from self.predictor.grow(job.example, **job.options)


def opened(folders: Mapping[str, str]) -> dict[str, Worker]:
    """A worker for each run, by its name. Raises UserError where a run answers nothing."""
    workers = {}
    for name, folder in folders.items():
        predictor = Predictor.open(folder)
        if type(predictor.task).example is Task.example:
            raise UserError(f"the run {folder} answers no inputs: serve one of another task")
        workers[name] = Worker(predictor)
    return workers
