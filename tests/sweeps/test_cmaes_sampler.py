"""CMA-ES from the trials alone: it optimises, resumes with the same points, and reads no pickle of a database."""

import contextlib
import json
import sqlite3

import numpy as np
import optuna

from research.sweeps.cmaes_sampler import CmaEsSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)


def value(trial) -> float:
    """A bowl in the logarithm of x, in y and in a whole number n, with its bottom at (0.01, 0.3, 5)."""
    x, y = trial.suggest_float("x", 1e-4, 1, log=True), trial.suggest_float("y", -1, 1)
    return (np.log10(x) + 2) ** 2 + 4 * (y - 0.3) ** 2 + 0.1 * (trial.suggest_int("n", 1, 9) - 5) ** 2


def optimise(storage, trials: int, make=lambda number: CmaEsSampler(number)) -> optuna.Study:
    """As a sweep does: a sampler of its own for each trial."""
    study = optuna.create_study(study_name="study", storage=storage, load_if_exists=True)
    for number in range(len(study.trials), trials):
        study = optuna.load_study(study_name="study", storage=storage, sampler=make(number))
        study.optimize(value, n_trials=1)
    return study


def test_it_is_better_than_random_search():
    best = optimise(optuna.storages.InMemoryStorage(), 80).best_value
    random = optimise(optuna.storages.InMemoryStorage(), 80, lambda n: optuna.samplers.RandomSampler(seed=n)).best_value
    assert best < 0.01 < random


def test_a_resumed_study_chooses_the_same_points(tmp_path):
    whole = optimise(f"sqlite:///{tmp_path / 'whole.db'}", 20)
    optimise(f"sqlite:///{tmp_path / 'parts.db'}", 11)
    parts = optimise(f"sqlite:///{tmp_path / 'parts.db'}", 20)
    assert [trial.params for trial in parts.trials] == [trial.params for trial in whole.trials]


def planted(database, marker) -> None:
    """Puts a pickle that makes a folder where Optuna 5's own sampler looks for its optimizer: hexadecimal, in parts."""
    text = f"cos\nmkdir\n(S'{marker}'\ntR.".encode().hex()
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        (trial,) = connection.execute("SELECT max(trial_id) FROM trials").fetchone()
        for name, content in (("cma:optimizer:0", text), ("cma:generation", 0)):
            row = (trial, name, json.dumps(content))
            connection.execute("INSERT INTO trial_system_attributes (trial_id, key, value_json) VALUES (?, ?, ?)", row)


def test_a_pickle_in_the_database_is_not_read(tmp_path):
    storage, marker = f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "marker"
    optimise(storage, 12)
    planted(tmp_path / "study.db", marker)
    study = optuna.load_study(study_name="study", storage=storage, sampler=optuna.samplers.CmaEsSampler(seed=0))
    study.optimize(value, n_trials=1)
    assert marker.exists()  # Optuna's own sampler is why there is another
    marker.rmdir()
    optimise(storage, 16)
    assert not marker.exists()
