"""Mixtures: how often each source is read, counted; sections within a section; and what they cannot be."""

import collections
import json
from pathlib import Path

import numpy as np
import pytest

from research.config import choose
from research.data.mixture import MixedRows, Mixture
from research.data.plans import Shuffled
from research.data.rows import Rows
from research.errors import UserError
from research.runs.tables import SOURCES


class Numbered(Rows):
    """Rows that tell their part, their own number and the epoch they are read in."""

    def __init__(self, name: int, size: int):
        self.name, self.size = name, size

    def __len__(self):
        return self.size

    def batch(self, indices, epochs, length):
        return {"row": np.stack([np.full_like(indices, self.name), indices, epochs], axis=1)}


def read(rows: Rows, epochs: int) -> list[tuple[int, int, int]]:
    plan = Shuffled(len(rows), 4, seed=0)
    found = []
    for step in range(int(epochs * plan.steps_per_epoch)):
        selection = plan(step)
        found += map(tuple, rows.batch(selection.indices, selection.epochs, None)["row"].tolist())
    return found


def test_a_weight_says_how_often_a_source_is_read():
    """12 rows an epoch, three quarters of them of the part of 4 rows: by hand 9, and 3 of the part of 8."""
    rows = MixedRows([Numbered(0, 4), Numbered(1, 8)], (3, 1))
    assert len(rows) == 12
    found = read(rows, 8)
    assert collections.Counter(part for part, _, _ in found) == {0: 72, 1: 24}
    times = collections.Counter((part, row) for part, row, _ in found)
    assert {times[0, row] for row in range(4)} == {18} and {times[1, row] for row in range(8)} == {3}
    assert len(set(found)) == len(found)  # never the same row in the same round: augmentation differs


def test_without_weights_everything_is_read_once_in_order():
    rows = MixedRows([Numbered(0, 3), Numbered(1, 2)], None)
    batch = rows.batch(np.arange(5), np.zeros(5, np.int64), None)["row"]
    assert batch.tolist() == [[0, 0, 0], [0, 1, 0], [0, 2, 0], [1, 0, 0], [1, 1, 0]]


def test_sections_within_a_section(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name} line\n" * 20)
    section = {
        "name": "mixture",
        "sources": [
            {"name": "text_file", "path": f"{tmp_path}/a.txt", "validation_fraction": 0.5},
            {"name": "text_file", "path": f"{tmp_path}/b.txt", "validation_fraction": 0.0},
        ],
        "weights": [1, 2],
    }
    source = choose(SOURCES, section, "data")
    assert isinstance(source, Mixture) and source.splits == ("train", "validation")
    train = source.examples("train")
    assert len(train) == 2 and train[1]["text"].startswith("b line") and train.weights == (1, 2)
    assert [example["text"] for example in train] == [train[0]["text"], train[-1]["text"]]
    assert source.examples("validation").weights is None and len(source.examples("validation")) == 1
    assert source.paths() == (f"{tmp_path}/a.txt", f"{tmp_path}/b.txt")
    before = source.fingerprint("train")
    (tmp_path / "b.txt").write_text("b other\n" * 20)
    assert choose(SOURCES, section, "data").fingerprint("train") != before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": []}, "data.sources is empty"),
        ({"weights": [1]}, "data.weights has 1 numbers for 2 sources"),
        ({"weights": [1, 0]}, "use more than 0"),
        (
            {"sources": [{"name": "text_fil", "path": "a"}]},
            r"data.sources\[0\].name is 'text_fil': did you mean text_file",
        ),
        ({"sources": [{"name": "text_file", "paht": "a"}]}, r"data.sources\[0\].paht is not a field of TextFile"),
        ({"sources": [{"name": "stranger:Source"}]}, r"data.sources\[0\].name .*--plugin=stranger"),
        ({"sources": 3}, "data.sources"),
    ],
)
def test_bad_mixtures_are_named(changes: dict, words: str):
    section = {"name": "mixture", "sources": [{"name": "modular"}, {"name": "modular"}], **changes}
    with pytest.raises(UserError, match=words):
        choose(SOURCES, section, "data")


def test_rows_of_other_lengths_are_refused():
    class Ragged(Numbered):
        def lengths(self):
            return np.arange(self.size)

    with pytest.raises(UserError, match="a mixture needs rows of one length"):
        MixedRows([Numbered(0, 2), Ragged(1, 2)], None)


def test_a_language_model_trains_on_a_mixture(tmp_path: Path, run):
    (tmp_path / "a.txt").write_text("To be, or not to be, that is the question:\n" * 40)
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"body": f"A page {number}."}) + "\n" for number in range(90)))
    config = tmp_path / "mixture.py"
    config.write_text(
        "from configs.language.shakespeare import get_config as shakespeare\n"
        "def get_config(arg=''):\n"
        "    config = shakespeare('tiny')\n"
        "    config.task.tokenizer = {'kind': 'character'}\n"
        f"    a = {{'name': 'text_file', 'path': '{tmp_path}/a.txt'}}\n"
        f"    b = {{'name': 'text_file', 'path': '{tmp_path}/b.jsonl', 'field': 'body'}}\n"
        "    config.data = {'name': 'mixture', 'weights': [1, 3], 'sources': [a, b]}\n"
        "    return config\n"
    )
    done = run("train", f"--config={config}", f"--workdir={tmp_path / 'run'}")
    assert done.code == 0, done.stderr
    assert "validation/bits_per_byte" in done.stdout
