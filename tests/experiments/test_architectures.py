import argparse
import json

import pytest

from experiments.architectures import main
from research.ledger import architectures
from research.ledger.architectures import Row, compute, measure


def test_every_model_is_the_published_one_as_stored():
    counts = compute()
    assert all(row["ok"] for row in counts["models"] + counts["layers"])
    assert counts == json.loads(architectures.STORED.read_text())


@pytest.mark.parametrize(
    ("changes", "ok"),
    [
        ({}, True),
        ({"millions": "3.506"}, False),
        ({"billions": 0.31}, False),
        ({"millions": "3.5", "within": 0.1}, True),
    ],
)
def test_a_row_that_is_off_is_found_and_fails_the_command(changes, ok, monkeypatch):
    row: Row = next(row for row in architectures.ROWS if row.name == "MobileNetV2 1.0")._replace(**changes)
    assert measure(row)["ok"] is ok
    monkeypatch.setattr(architectures, "ROWS", (row,))
    monkeypatch.setattr(architectures, "LAYERS", {})
    arguments = argparse.Namespace(write=False)
    if ok:
        main(arguments)
    else:
        with pytest.raises(SystemExit):
            main(arguments)


def test_the_growth_of_a_layer_is_read_off_its_operations():
    assert architectures.exponents(lambda n, d: 3 * n**2 * d) == (2.0, 1.0)
    assert architectures.exponents(lambda n, d: n * d**2 + n) == pytest.approx((1.0, 2.0), abs=1e-4)
