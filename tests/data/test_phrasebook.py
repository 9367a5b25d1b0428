"""Phrasebook: disjoint splits, a function from phrase to translation, every word of the test set seen in training."""

import re
import subprocess
import sys
from collections import Counter

import pytest

from research.config import build
from research.data.phrasebook import Phrasebook
from research.data.tokenizer import Tokenizer
from research.errors import UserError

# Written by hand from the Unicode CLDR charts.
FRENCH = {
    "Thursday, August 12, 2032": "jeudi 12 août 2032",
    "1st quarter 2011": "1er trimestre 2011",
    "in 3 days": "dans 3 jours",
    "3 days ago": "il y a 3 jours",
    "1 hour": "1\u00a0heure",
    "2 hours": "2\u00a0heures",
    "5/4/21": "04/05/2021",
    "Germany": "Allemagne",
    "German": "allemand",
    "Germany and Spain": "Allemagne et Espagne",
    "Germany or Spain": "Allemagne ou Espagne",
}


@pytest.fixture(scope="module")
def french() -> dict[str, list[dict]]:
    source = Phrasebook("fr")
    return {split: source.examples(split) for split in source.splits}


def test_sizes_and_disjoint_splits(french: dict[str, list[dict]]):
    assert {split: len(examples) for split, examples in french.items()} == {
        "train": 20_000, "validation": 500, "test": 1000,
    }  # fmt: skip
    everything = [example for examples in french.values() for example in examples]
    for side in ("source", "target"):
        assert len({example[side] for example in everything}) == len(everything)
        assert all(example[side].strip() for example in everything)


def test_translations_are_those_of_cldr():
    source = Phrasebook("fr", size=150_000)
    pairs = {e["source"]: e["target"] for split in source.splits for e in source.examples(split)}
    known = FRENCH.keys() & pairs.keys()
    assert len(known) >= 6
    assert {phrase: pairs[phrase] for phrase in known} == {phrase: FRENCH[phrase] for phrase in known}


def test_every_kind_of_phrase_occurs(french: dict[str, list[dict]]):
    texts = [example["source"] for example in french["train"]]
    for word in ("Monday", "Sat,", "March", "4th quarter", "ago", "in ", " and ", " or ", " \u2013 ", "$", "\u20ac",
                 "euros", "grams", "India", "French", "/20"):  # fmt: skip
        assert sum(word in text for text in texts) >= 50, word
    targets = "".join(example["target"] for example in french["train"])
    assert "\u00a0" in targets and "\u202f" in targets  # CLDR's non-breaking spaces are kept


@pytest.mark.parametrize("side", ["source", "target"])
def test_learnable(french: dict[str, list[dict]], side: str):
    texts = {split: [example[side] for example in examples] for split, examples in french.items()}
    tokenizer = Tokenizer("word").train(texts["train"])
    seen = Counter(token for ids in tokenizer.encode_batch(texts["train"]) for token in ids)
    assert all(seen[token] >= 5 for ids in tokenizer.encode_batch(texts["test"]) for token in ids)
    lengths = sorted(len(ids) for ids in tokenizer.encode_batch(texts["train"]))
    assert lengths[len(lengths) // 2] <= 11 and lengths[-1] <= 32
    assert tokenizer.vocab_size < 600


@pytest.mark.parametrize("language", ["de", "ja", "ru", "ar", "pt_BR", "zu"])
def test_other_languages(language: str):
    source = Phrasebook(language, size=1000)
    train = source.examples("train")
    assert len(train) == 1000
    assert sum(example["source"] != example["target"] for example in train) > 700
    # A part that CLDR writes in two ways for one English text is left out, so a phrase alone is never ambiguous.
    assert len({example["source"] for example in train}) == len(train)


def test_german_has_no_phrase_of_two_translations():
    # "May 4, 2021" is "4. Mai 2021" as a long date and "04.05.2021" as a medium one; "April 4, 2021" is only long.
    sources = [example["source"] for example in Phrasebook("de").examples("train")]
    assert not [source for source in sources if re.fullmatch(r"May \d+, \d+", source)]
    assert len([source for source in sources if re.fullmatch(r"April \d+, \d+", source)]) > 5


def test_reproducible_in_another_process(french: dict[str, list[dict]]):
    code = (
        "from research.data.phrasebook import Phrasebook; print(ascii([Phrasebook('fr').examples('test')[i] "
        "for i in (0, 1, 500, 999)]))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == ascii([french["test"][index] for index in (0, 1, 500, 999)])
    assert Phrasebook("fr", seed=1).examples("test") != french["test"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"language": "french"}, "language 'french' is not in CLDR: use fr"),
        ({"language": "pt-BR"}, "use pt_BR"),
        ({"language": "qqq"}, "is not in CLDR: use"),
        ({"size": 39}, "data.size is 39: use 40 or more"),
    ],
)
def test_errors(fields: dict, message: str):
    with pytest.raises(UserError, match=message):
        build(Phrasebook, fields, "data").examples("train")


def test_unknown_split():
    with pytest.raises(UserError, match="split 'tset' is unknown: use train, validation or test"):
        Phrasebook().examples("tset")
