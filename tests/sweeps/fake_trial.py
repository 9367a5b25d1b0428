"""A run in a tenth of a second: as experiments.train does, it goes on where it was, and saves itself on SIGTERM.

The objective falls towards optimizer.learning_rate; task.label_smoothing names what goes wrong. Each line of
<workdir>/starts is one start, and it checks that no other process runs in the folder.
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

EVALUATIONS = 5
CRASH, USER_ERROR, PREEMPTED, NAN = 0.1, 0.2, 0.3, 0.4


def main() -> None:
    options = dict(option.removeprefix("--").split("=", 1) for option in sys.argv[1:])
    folder = Path(options["workdir"])
    folder.mkdir(exist_ok=True, parents=True)
    lock = (folder / "alone").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where two run at once
    with (folder / "starts").open("a") as starts:
        starts.write(f"{os.getpid()} {','.join(map(str, sorted(os.sched_getaffinity(0))))}\n")
    seed, rate = int(options.get("config.seed", 0)), float(options.get("config.optimizer.learning_rate", 0))
    (folder / "config.json").write_text(json.dumps({"seed": seed, "optimizer": {"learning_rate": rate}}))
    wrong = float(options.get("config.task.label_smoothing", 0))
    first_start = len((folder / "starts").read_text().splitlines()) == 1
    if wrong == CRASH or (wrong == PREEMPTED and first_start):
        print("some words\nthe disk is on fire")
        sys.exit(1 if wrong == CRASH else 75)
    if wrong == USER_ERROR:
        print("error: use another value")
        sys.exit(2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    metrics = folder / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    losses = [rate + 1 / evaluation + seed / 1000 for evaluation in range(1, EVALUATIONS + 1)]
    for evaluation, loss in list(enumerate(losses, 1))[done:]:
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0.02")))
        with metrics.open("a") as file:
            file.write(json.dumps({"step": 10 * evaluation, "validation/loss": loss}) + "\n")
    final = float("nan") if wrong == NAN else losses[-1]
    (folder / "results.json").write_text(json.dumps({"validation/loss": final, "test/loss": final}))


if __name__ == "__main__":
    main()
