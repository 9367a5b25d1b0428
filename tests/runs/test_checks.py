"""What is known before the first step."""

import pytest

from research.config import load
from research.errors import UserError
from research.runs.checks import check_before_training
from research.runs.experiment import build_experiment

PHRASEBOOK = "configs/translation/phrasebook.py:tiny"


def checked(folder, **overrides):
    config = load(PHRASEBOOK, {name.replace("__", "."): value for name, value in overrides.items()})
    experiment = build_experiment(config, folder)
    check_before_training(experiment)
    return experiment


@pytest.mark.parametrize("best", ["validation/loss", "validation/token_accuracy", "validation/bleu"])
def test_the_best_may_be_any_metric_or_score(tmp_path, best):
    assert checked(tmp_path, checkpoint__best=best).checkpoint.best == best


@pytest.mark.parametrize("best", ["validation/blue", "test/loss", "loss", "validation/loss/0"])
def test_a_best_that_is_not_measured_is_refused(tmp_path, best):
    with pytest.raises(UserError, match=r"checkpoint\.best .* is not measured: use one of validation/loss, .*/bleu"):
        checked(tmp_path, checkpoint__best=best)
