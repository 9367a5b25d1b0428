"""The vocabularies of a run: made once, from texts or a file, kept in its folder, one or two for pairs of texts."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import build
from research.data.source import Withheld
from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.models.rnn import RNNSeq2Seq
from research.models.seq2seq import Seq2Seq
from research.tasks.language_modeling import LanguageModeling
from research.tasks.next_token import NextToken
from research.tasks.translation import Translation
from research.tasks.vocabulary import token_ids
from tests.layers.random_params import random_params

PAIRS = [{"source": "a b c d", "target": "x y"}, {"source": "d e f", "target": "y z"}]
WORDS = Tokenizer("whitespace")
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b", "c", "x", "##y"]


class Source:
    """Sentences as a source has them."""

    def examples(self, split: str) -> list[dict[str, str]]:
        assert split == "train"
        return PAIRS


class Texts:
    """Two texts."""

    def examples(self, split: str) -> list[dict[str, str]]:
        return [{"text": "a ab b"}, {"text": "x"}]


def write_bert(folder: Path) -> str:
    (folder / "vocab.txt").write_text("\n".join(BERT) + "\n")
    return str(folder / "vocab.txt")


def test_a_file_is_read_once(tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    path = write_bert(tmp_path)
    first = Translation(Tokenizer(path=path)).prepare(Source(), folder)
    assert first.vocabulary.ids == {token: number for number, token in enumerate(BERT)}
    Path(path).unlink()
    for source in (Source(), Withheld(folder)):
        assert Translation(Tokenizer(path=path)).prepare(source, folder).vocabulary.ids == first.vocabulary.ids
    assert TrainedTokenizer.load(folder / "tokenizer.json").cls == 2


def test_a_stored_config_makes_no_file_of_yours_be_read(tmp_path: Path):
    """Somebody else's config.json may name any file."""
    task = Translation(Tokenizer(path=write_bert(tmp_path)))
    with pytest.raises(UserError, match=r"lacks what was made of its data, such as tokenizer\.json"):
        task.prepare(Withheld(tmp_path), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["vocab.txt"]


def test_a_vocabulary_without_padding_suits_running_text_alone(tmp_path: Path):
    Tokenizer("character", specials=False).train(["ab x"]).save(tmp_path / "plain.json")
    tokenizer = Tokenizer(path=str(tmp_path / "plain.json"))
    for name, task in (("pairs", Translation(tokenizer)), ("rows", NextToken(tokenizer))):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=r"task\.tokenizer has no token for padding"):
            task.prepare(Source(), tmp_path / name)
        assert not list((tmp_path / name).iterdir())
    assert LanguageModeling(tokenizer, 4).prepare(Texts(), tmp_path).vocabulary.pad is None
    (tmp_path / "shifted.txt").write_text("\n".join(["a", *BERT[:5]]))
    shifted = Tokenizer(path=str(tmp_path / "shifted.txt"))
    with pytest.raises(UserError, match=r"task\.tokenizer pads with id 0 and task\.target_tokenizer with 1: use"):
        Translation(Tokenizer("word"), target_tokenizer=shifted).prepare(Source(), tmp_path / "pairs")


def test_padding_is_that_of_the_vocabulary(tmp_path: Path):
    (tmp_path / "shifted.txt").write_text("\n".join(["a", *BERT[:5]]))
    task = Translation(Tokenizer(path=str(tmp_path / "shifted.txt")), max_length=4).prepare(Source(), tmp_path)
    pairs = [{"source": "a", "target": "a a"}]
    batch = task.rows(pairs, train=False, seed=0).batch(np.zeros(1, np.int64), np.zeros(1, np.int64), None)
    assert batch["source"].tolist() == [[0, 4, 1, 1]] and batch["target_output"].tolist() == [[0, 0, 4, 1]]
    assert batch["target_input"].tolist() == [[3, 0, 0, 1]]
    assert task.model_inputs(batch)[2].tolist() == [[True, True, False, False]]


def test_texts_end_with_the_end_marker_of_their_vocabulary(tmp_path: Path):
    task = LanguageModeling(Tokenizer(path=write_bert(tmp_path)), 2).prepare(Texts(), tmp_path)
    examples = Texts().examples("train")
    batch = task.rows(examples, train=False, seed=0).batch(np.arange(3), np.zeros(3, np.int64), None)
    # "a", "a" + "##b", "b", the end, "x", the end; windows share their first token with the last one's end
    assert batch["tokens"].tolist() == [[5, 5, 7], [7, 6, 3], [3, 9, 3]]
    assert batch["bytes"].tolist() == [[1, 2, 1], [1, 2, 0], [0, 1, 0]]


@pytest.mark.parametrize("model", [Seq2Seq, RNNSeq2Seq])
def test_one_vocabulary_for_each_language(model: type, tmp_path: Path):
    task = Translation(WORDS, target_tokenizer=Tokenizer(path=write_bert(tmp_path)), max_length=6, extra_length=2)
    task = task.prepare(Source(), tmp_path)
    assert {path.name for path in tmp_path.glob("*.json")} == {"tokenizer.json", "target_tokenizer.json"}
    assert set(task.vocabulary.ids) == {"<pad>", "<s>", "</s>", "<unk>", *"abcdef"}
    assert token_ids(task) == {"source": task.vocabulary.ids, "target": {token: n for n, token in enumerate(BERT)}}
    batch = task.rows(PAIRS, train=False, seed=0).batch(np.arange(2), np.zeros(2, np.int64), None)
    assert batch["source"][1].tolist() == [*task.vocabulary.encode("d e f"), 2, 0, 0]  # ends with </s>
    assert batch["target_output"].tolist() == [[9, 1, 3, 0, 0, 0], [1, 1, 3, 0, 0, 0]]  # ends with [SEP]
    assert batch["target_input"][0].tolist() == [2, 9, 1, 0, 0, 0]  # starts with [CLS]
    assert "'d'=" in task.show(batch, 1) and "'[SEP]'=3" in task.show(batch, 1)

    sizes = {"width": 8, "num_layers": 1} | ({"num_heads": 2, "mlp_width": 8} if model is Seq2Seq else {})
    net = build(model, sizes, "model", **task.model_fields())
    assert net.vocab_size == len(BERT) and not net.share_embeddings
    with pytest.raises(UserError, match=r"model\.share_embeddings is True but must be False"):
        build(model, {**sizes, "share_embeddings": True}, "model", **task.model_fields())
    variables = random_params(net, *(jnp.ones((1, 2), jnp.int32),) * 2, jnp.ones((1, 2), bool), deviation=1.0, seed=1)
    rows = task.questions(PAIRS).batch(np.arange(2), np.zeros(2, np.int64), 5)
    answers = np.asarray(jax.jit(lambda batch: task.predict(net, variables, batch))({"source": rows["source"]}))
    assert (answers[:, 0] == 2).all() and not (answers[:, 1:] == 2).any() and answers.max() < len(BERT)
    answers = [2, 5, 7, 9, 3, 0]
    assert task.answer({}, [np.array(answers)]) == {"text": "ab x"}  # [CLS] a ##b x [SEP] [PAD]


def test_a_joint_vocabulary_is_as_before(tmp_path: Path):
    task = Translation(WORDS).prepare(Source(), tmp_path)
    assert task.vocabulary is task.target_vocabulary and task.model_fields() == {"vocab_size": 4 + 9}
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
