"""GPT-2's tokens, and the only mark that it has."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.data.tokenizer_rules import pipeline
from research.errors import UserError
from research.tasks.vocabulary import vocabulary_of_run


def test_the_end_marker_of_gpt2_stands_between_texts_and_in_none(tmp_path: Path):
    """A file as the library's own training of GPT-2's pipeline writes it."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|endoftext|>"]
    )
    made.train_from_iterator(["the dogs sing and the cats sing"] * 3, trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    loaded = TrainedTokenizer.load(tmp_path / "tokenizer.json")
    end = made.token_to_id("<|endoftext|>")
    assert (loaded.end_token, loaded.start_token, loaded.pad) == (end, -1, None)
    assert end not in loaded.encode("sing<|endoftext|>") and loaded.decode([*loaded.encode("sing"), end, 5]) == "sing"
    loaded.publish(tmp_path)
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again.encode("sing<|endoftext|>").ids == [*made.encode("sing").ids, end]
    source = SimpleNamespace(examples=lambda split: [{"source": "a", "target": "b"}])
    tokenizer = Tokenizer(path=str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"task\.tokenizer has no token for padding, which suits a language model"):
        vocabulary_of_run(tokenizer, source, ("source", "target"), tmp_path)


def test_lines_of_gpt2_stay_apart_as_its_tokens_may_hold_several_line_feeds():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*letters, "ĊĊ"])}
    trained = TrainedTokenizer(pipeline("gpt2", models.BPE(vocabulary, [("Ċ", "Ċ")])))
    feed = vocabulary["Ċ"]
    assert trained.encode("a\n\n") == [vocabulary["a"], vocabulary["ĊĊ"]]
    tokens, ends = trained.encode_lines(["a\n", "\n", "\n"])
    assert tokens.tolist() == [vocabulary["a"], feed, feed, feed] and ends.tolist() == [1, 2, 3, 4]
