import pytest

from research.data.conll import Conll
from research.errors import UserError

UNIVERSAL = """# text = It's fine
1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\t_
1\tIt\tit\tPRON\tPRP\t_\t_\t_\t_\t_
2\t's\tbe\tAUX\tVBZ\t_\t_\t_\t_\t_
2.1\tnothing\t_\tVERB\t_\t_\t_\t_\t_\t_
3\t10 000\t_\tNUM\tCD\t_\t_\t_\t_\t_

1\t#\t#\tSYM\tNN\t_\t_\t_\t_\t_
"""
NAMES = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
# NN I-NP O

Peter NNP B-NP B-PER
"""


@pytest.fixture
def written(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text, "utf-8")
        return str(tmp_path / name)

    return write


def test_universal_dependencies(written):
    path = written("a.conllu", UNIVERSAL)
    first, second = Conll(path).examples("train")
    assert first == {"source": "It 's 10\u00a0000", "target": "PRON AUX NUM"}
    assert second == {"source": "#", "target": "SYM"}
    assert Conll(path, tag=5).examples("train")[0]["target"] == "PRP VBZ CD"


def test_columns(written):
    path = written("eng.train", NAMES)
    assert list(Conll(path).examples("train")) == [
        {"source": "EU #", "target": "B-ORG O"},
        {"source": "Peter", "target": "B-PER"},
    ]
    assert Conll(path, tag=2).examples("train")[0]["target"] == "NNP NN"


def test_every_tenth_sentence_validates(written):
    path = written("a.txt", "\n\n".join(f"w{n} T" for n in range(25)))
    source = Conll(path, folds=10, test_path=written("b.txt", "x T\n"))
    assert [each["source"] for each in source.examples("validation")] == ["w0", "w10", "w20"]
    assert len(source.examples("train")) == 22 and source.examples("test")[0]["source"] == "x"


def test_columns_that_are_not_there(written):
    with pytest.raises(UserError, match=r"line 1 of .* has 1 columns, and no word and tag in columns 1 and 2"):
        Conll(written("a.txt", "alone\n")).examples("train")
    with pytest.raises(UserError, match=r"has 4 columns, and no word and tag in columns 1 and 9: set data\.word"):
        Conll(written("b.txt", NAMES), tag=9).examples("train")
    with pytest.raises(UserError, match="holds no examples"):
        Conll(written("c.conllu", "# only a comment\n")).examples("train")
