"""A sweep as an array of SLURM jobs, each of which joins the sweep and takes one trial after another.

Partition, account and time are those of sbatch's variables (SBATCH_PARTITION, SBATCH_TIMELIMIT, ...). A job that is
preempted or runs out of time saves its trial and is queued again.
"""

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from research.errors import UserError
from research.files import inside
from research.sweeps.launchers import GRACE_SECONDS, MOST_WORKERS
from research.sweeps.worker import killed_by, last_words
from research.training.interruptions import RESTART

try:
    import submitit
except ImportError as error:
    raise UserError(
        "--launcher=slurm needs the extra slurm: install it with `uv sync --frozen --extra slurm`"
    ) from error

SWEEP = (sys.executable, "-m", "experiments.sweep")
POLL_SECONDS = 1.0
MAX_HOURS = 24
"""Of a job, unless SBATCH_TIMELIMIT says otherwise."""


class Worker:
    """A job of the array: the sweep's own command, with the trials run here one by one."""

    def __init__(self, options: Sequence[str]):
        self.command = [*SWEEP, *options, "--launcher=local", "--workers=1"]
        self.process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Its exit code. Raises RuntimeError for one that says that something is wrong."""
        self.process = subprocess.Popen(self.command, start_new_session=True)
        code = self.process.wait()
        if code not in (0, RESTART):
            raise RuntimeError(f"{killed_by(code) or f'exit code {code}'} of {self.command}")
        return code

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """What submitit calls shortly before the job is taken away: the trial is saved, the same job queued again."""
        if self.process:
            self.process.terminate()
            self.process.wait(GRACE_SECONDS)
            self.process = None
        return submitit.helpers.DelayedSubmission(self)


def submit(
    options: Sequence[str],
    folder: Path,
    jobs: int,
    cpus: int,
    gpus: int,
    watch: Callable[[], object],
    cluster: str | None = None,
) -> None:
    """Submits the jobs and waits for their end, calling `watch` every second. cluster: "local" needs no SLURM.

    options: those of the command that the jobs share. Raises UserError for numbers out of range, where there is no
    SLURM, or when jobs fail.
    """
    if not (1 <= jobs <= MOST_WORKERS and cpus >= 1 and gpus >= 0):
        raise UserError(
            f"--workers={jobs} --cpus={cpus} --gpus={gpus} is out of range: use 1 to {MOST_WORKERS:,} workers, "
            "1 CPU or more, and 0 GPUs or more"
        )
    if not inside(folder / "jobs", folder):
        raise UserError(f"{folder / 'jobs'} leads out of {folder}: move it away")
    place = folder / "jobs" / uuid.uuid4().hex  # submitit unpickles what lies there: nobody else can have put it there
    try:
        executor = submitit.AutoExecutor(place, cluster=cluster or "slurm", slurm_max_num_timeout=1000)
    except RuntimeError as error:
        raise UserError("--launcher=slurm finds no sbatch here: submit from a SLURM login node") from error
    executor.update_parameters(
        name=folder.resolve().name,
        timeout_min=MAX_HOURS * 60,
        slurm_array_parallelism=jobs,
        cpus_per_task=cpus,
        gpus_per_node=gpus,
    )
    with executor.batch():
        submitted = [executor.submit(Worker(options)) for _ in range(jobs)]
    print(f"{jobs} jobs are queued ({', '.join(job.job_id for job in submitted)}); they continue without this command")
    while not all(job.done() for job in submitted):
        watch()
        time.sleep(POLL_SECONDS)
    watch()
    wrong = [job for job in submitted if job.state not in ("COMPLETED", "FINISHED")]
    if wrong:
        words = last_words(Path(wrong[0].paths.stderr)) or wrong[0].state
        raise UserError(f"job {wrong[0].job_id} failed: {words}; {wrong[0].paths.stderr} says more")
