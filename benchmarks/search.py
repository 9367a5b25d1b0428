"""TPE beside random search at equal trials, on a recorded table of the digits ViT.

    python -m benchmarks.search

`search_digits.csv` holds the validation loss of 50 trainings (10 learning rates x 5 weight decays) of
configs/vision/digits.py, shortened to 100 steps of 64 images without label smoothing, mixup and averaging; it is the
`sweep.csv` of such a sweep. Between the points the loss is interpolated along the logarithms, so that both samplers
draw from ranges as in a real sweep, at no cost. Each repeat is a search of its own seed.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from scipy.interpolate import RegularGridInterpolator

TABLE = Path(__file__).with_name("search_digits.csv")
PATHS = ("optimizer.learning_rate", "optimizer.weight_decay")


def loss_of() -> tuple[Callable[..., float], list[tuple[float, float]]]:
    """The validation loss at any point within the recorded ranges, and these ranges."""
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    axes = [sorted({float(row[path]) for row in rows}) for path in PATHS]
    values = np.full([len(axis) for axis in axes], np.nan)
    for row in rows:
        place = tuple(axis.index(float(row[path])) for path, axis in zip(PATHS, axes, strict=True))
        values[place] = float(row["value"])
    table = RegularGridInterpolator([np.log(axis) for axis in axes], values, bounds_error=False, fill_value=None)
    return lambda *point: float(table(np.log(point))[0]), [(axis[0], axis[-1]) for axis in axes]


def search(sampler: optuna.samplers.BaseSampler, trials: int) -> np.ndarray:
    """The best loss so far after each trial."""
    loss, ranges = loss_of()

    def objective(trial: optuna.Trial) -> float:
        drawn = zip(PATHS, ranges, strict=True)
        return loss(*(trial.suggest_float(path, *edges, log=True) for path, edges in drawn))

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, trials)
    return np.minimum.accumulate([trial.value for trial in study.trials])


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {"TPE": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    shown = [count for count in (10, 20, 30, 40, 60, 100) if count <= arguments.trials]
    print(f"best validation loss after so many trials, mean ± deviation of {arguments.repeats} repeats")
    print("| sampler | " + " | ".join(map(str, shown)) + " |\n|---" + "|---" * len(shown) + "|")
    found = {}
    for name, sampler in samplers.items():
        curves = [search(sampler(seed=seed), arguments.trials) for seed in range(arguments.repeats)]
        found[name] = np.array(curves)
        cells = [f"{found[name][:, n - 1].mean():.4f} ± {found[name][:, n - 1].std(ddof=1):.4f}" for n in shown]
        print(f"| {name} | " + " | ".join(cells) + " |")
    wins = (found["TPE"][:, -1] < found["random"][:, -1]).sum()
    print(f"TPE is ahead in {wins} of {arguments.repeats} repeats after {arguments.trials} trials")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=40, help="of each search")
    parser.add_argument("--repeats", type=int, default=3, help="searches of each sampler")
    main(parser.parse_args())
