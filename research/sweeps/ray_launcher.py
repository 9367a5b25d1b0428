"""Trials on a Ray cluster: an actor for each, on any node that has the resources, starts it there and watches it.

The nodes share the file system that the sweep's folder and this repository lie on. The trial of a node that is lost
counts as preempted: it resumes elsewhere.
"""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.errors import UserError, one_line
from research.sweeps.launchers import GRACE_SECONDS, MOST_WORKERS, Process, cores
from research.training.interruptions import RESTART

try:
    import ray
except ImportError as error:
    raise UserError("--launcher=ray needs the extra ray: install it with `uv sync --frozen --extra ray`") from error


class RayLauncher:
    """Slots on the cluster of RAY_ADDRESS, on the one that runs on this machine, or on one made of this machine.

    0 slots: as many as the cluster has room for. cpus, gpus: what each trial gets.
    """

    def __init__(self, slots: int, cpus: int, gpus: int):
        if cpus < 1 or gpus < 0:
            raise UserError(f"--cpus={cpus} --gpus={gpus} runs no trial: use 1 CPU or more, and 0 GPUs or more")
        if not 0 <= slots <= MOST_WORKERS:
            raise UserError(f"--workers={slots} is out of range: use 0 to {MOST_WORKERS:,}")
        if not ray.is_initialized():
            root = str(Path(__file__).parents[2])
            with contextlib.redirect_stdout(None):
                ray.init(
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                    runtime_env={"env_vars": {"PYTHONPATH": root}},
                )
        here = ray.cluster_resources()
        room = int(min(here.get("CPU", 0) // cpus, here.get("GPU", 0) // gpus if gpus else float("inf")))
        if not room:
            has = f"{here.get('CPU', 0):g} CPUs and {here.get('GPU', 0):g} GPUs"
            raise UserError(
                f"--workers={slots} with --cpus={cpus} --gpus={gpus} fits no cluster that has {has}: ask less"
            )
        self.slots = slots or min(room, MOST_WORKERS)
        self._resources = {"num_cpus": cpus, "num_gpus": gpus}

    def start(self, command: Sequence[str], log: Path, slot: int) -> "RemoteTrial":
        """Starts the command as soon as a node has room for it."""
        host = _Host.options(**self._resources)  # pyrefly: ignore[missing-attribute]
        return RemoteTrial(host.remote(list(command), str(log)), log)


class RemoteTrial:
    """A trial on some node."""

    def __init__(self, host: "ray.actor.ActorHandle", log: Path):
        self._host, self._log = host, log

    def poll(self) -> int | None:
        """Its exit code, None while it runs or waits for a node; `RESTART` when its node is lost.

        1 where it could not be started there: Ray's last words are then in its log.
        """
        try:
            code: Any = ray.get(self._host.poll.remote(), timeout=5)
        except ray.exceptions.GetTimeoutError:
            return None
        except ray.exceptions.RayActorError as error:
            if not error.actor_init_failed:
                return RESTART
            with self._log.open("a", encoding="utf-8", errors="replace") as log:
                print(f"not started by Ray: {one_line(str(error).rstrip().rpartition(chr(10))[2])}", file=log)
            return 1
        if code is not None:
            ray.kill(self._host)
        return code

    def stop(self) -> int:
        """Asks it to save itself and end, and ends it if that takes too long."""
        try:
            code: Any = ray.get(self._host.stop.remote(), timeout=GRACE_SECONDS + 10)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            code = RESTART
        ray.kill(self._host)
        return code


@ray.remote(max_restarts=0)
class _Host:
    """Lives on the trial's node; the trial dies with it."""

    def __init__(self, command: Sequence[str], log: str):
        self._process = Process(command, Path(log), cores(), {})

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> int:
        return self._process.stop()
