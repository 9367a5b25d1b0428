import gzip
import json

import pytest

from research.data.table import Table
from research.errors import UserError

MESSAGES = 'ham\tgo "home\nspam\twin, now\nham\tgo "home\nham\tok\nspam\tfree\nham\thi\nham\tbye\n'
COLUMNS = {"columns": ("kind", "words"), "keys": {"source": "words", "label": "kind"}}


@pytest.fixture
def written(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text, "utf-8")
        return str(tmp_path / name)

    return write


def test_the_splits_of_one_file(written):
    """Repeated rows go first; then index % folds = 0 tests, = 1 validates, the rest trains."""
    source = Table(written("sms.tsv", MESSAGES), folds=5, unique=True, **COLUMNS)
    texts = {split: [example["source"] for example in source.examples(split)] for split in source.splits}
    assert texts == {"train": ["ok", "free", "hi"], "validation": ["win, now"], "test": ['go "home', "bye"]}
    assert source.examples("test")[0] == {"source": 'go "home', "label": "ham"}
    (sentence,) = source.left_out("train")
    assert sentence.startswith("1 rows of ") and not Table(source.path, **COLUMNS).left_out("train")


def test_csv_and_json_lines_hold_the_same(written, tmp_path):
    rows = [("a, b", 'say "hi"', "1"), ("two\nlines", "é", "0.5")]
    csv = 'one,two,score\n"a, b","say ""hi""",1\n"two\nlines",é,0.5\n'
    keys = {"source": "one", "second": "two", "label": "score"}
    objects = "\n".join(json.dumps({"one": a, "two": b, "score": json.loads(c), "x": 1}) for a, b, c in rows)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(f"{objects}\n\n".encode()))
    expected = [{"source": a, "second": b, "label": c} for a, b, c in rows]
    for source in (Table(written("rows.csv", csv), keys=keys), Table(str(path), keys=keys)):
        assert list(source.examples("train")) == expected and source.splits == ("train",)


def test_files_of_their_own(written):
    files = {f"{split}_path": written(f"{split}.tsv", f"{split}\tx\n") for split in ("validation", "test")}
    source = Table(written("train.tsv", MESSAGES), **files, **COLUMNS)
    assert source.splits == ("train", "validation", "test") and source.examples("test")[0]["label"] == "test"
    assert len(source.paths()) == 3


def test_several_labels_stay_a_list(written):
    source = Table(written("x.jsonl", '{"text": "a", "label": ["x", "y"]}\n'))
    assert source.examples("train") == [{"source": "a", "label": ["x", "y"]}]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", 'text,label\nfine,x\n"never closed,y\nz,x\n', "row that begins in line 3 of .* is not CSV"),
        ("a.csv", 'text,label\n"a"b,x\n', "line 2 of .* is not CSV .*: a quote in a field stands twice"),
        ("a.csv", "text,label\na,b,c\n", r"line 2 of .* has 3 columns and not 2 \(text, label\)"),
        ("a.csv", "words,label\na,b\n", r"no column 'text' \(it has words, label\): set data.keys.source"),
        ("a.csv", "text,label\n", "holds no examples"),
        ("a.tsv", "", "is empty: give a file with text"),
        ("a.jsonl", "{\n", "line 1 of .* is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 of .* is not a JSON object"),
        ("a.jsonl", '{"text": 3, "label": "x"}\n', "'text' in line 1 of .* is not a text"),
        ("a.jsonl", '{"label": "x"}\n', "line 1 of .* has no column 'text'"),
        ("a.jsonl", '\n{"text": "a\\ud800", "label": "x"}\n', "'text' in line 2 of .* has half a surrogate pair"),
        ("a.jsonl", '{"text": "a", "label": ["x", "\\u0000"]}\n', "'label' in line 1 of .* has a NUL character"),
    ],
)
def test_files_that_are_not_tables(name, text, words, written):
    with pytest.raises(UserError, match=words):
        Table(written(name, text)).examples("train")


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="does not exist: check the path"):
        Table(str(tmp_path / "none.csv")).examples("train")
