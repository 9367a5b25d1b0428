import pytest

from research.config import build
from research.data.modular import Modular
from research.errors import UserError


@pytest.mark.parametrize(("operation", "count"), [("+", 49), ("-", 49), ("/", 42)])
def test_every_equation_is_right_and_occurs_once(operation, count):
    source = Modular(operation, modulus=7)
    train, validation = source.examples("train"), source.examples("validation")
    assert (len(train), len(validation)) == (round(count / 2), count - round(count / 2))
    assert len({example["source"] for example in train + validation}) == count
    for example in train + validation:
        a, sign, b, equals = example["source"].split()
        a, b, c = int(a), int(b), int(example["target"])
        assert (sign, equals) == (operation, "=") and 0 <= c < 7
        assert {"+": a + b - c, "-": a - b - c, "/": b * c - a}[operation] % 7 == 0


def test_the_table_of_the_paper_is_halved():
    """97 · 96 = 9,312 divisions."""
    assert len(Modular().examples("train")) == len(Modular().examples("validation")) == 4656


def test_the_seed_draws_the_training_share():
    first, again, other = (Modular(modulus=11, seed=seed).examples("train") for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modulus": 91}, "data.modulus 91 is not a prime"),
        ({"train_fraction": 1.0}, "data.train_fraction is 1.0: use more than 0 and less than 1"),
        ({"operation": "*"}, r"data.operation must be Literal\['\+', '-', '/'\], got '\*'"),
    ],
)
def test_errors(fields, message):
    with pytest.raises(UserError, match=message):
        build(Modular, fields, "data")
