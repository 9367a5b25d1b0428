"""Tokenizers of CLIP and SigLIP beside the reference library's own."""

import json
import shutil

import pytest

from research.data.tokenizer import Tokenizer
from research.data.tokenizer_rules import bare, ours
from research.errors import UserError
from research.tasks.captioning import Captioning
from tests.runs.test_weights_texts import GOLDEN, published  # noqa: F401


@pytest.mark.parametrize("file", ["vocab.json", "own.json", "tokenizer.json"])
def test_the_tokens_of_a_text_are_the_references(file, published, tmp_path):  # noqa: F811
    """Of CLIP from two files or one, and of SigLIP; saved and read again as well."""
    source, expected = published("siglip" if file == "tokenizer.json" else "clip")
    if file == "own.json":
        shutil.copy(GOLDEN / "clip" / file, source)
    vocabulary = Tokenizer(path=str(source / file)).read()
    vocabulary.save(tmp_path / "saved.json")
    again = Tokenizer(path=str(tmp_path / "saved.json")).read()
    start, end = [vocabulary.bos] if vocabulary.bos is not None else [], vocabulary.eos
    for one in (vocabulary, again):
        assert [[*start, *ids, end] for ids in one.encode_batch(expected["texts"])] == expected["ids"]
        assert one.pad == one.eos and one.pads_with_end
    found = [vocabulary.decode(row[len(start) :]) for row in expected["ids"]]
    assert found == expected["decoded"]
    assert not {end, *start} & {*vocabulary.encode("a </s> <|endoftext|> fox <|startoftext|>")}


def test_rules_of_other_makes(published, tmp_path):  # noqa: F811
    """CLIP's as it was first published, SigLIP's with a table of characters; what else they say is refused."""
    source, expected = published("clip")
    stored = json.loads((GOLDEN / "clip" / "own.json").read_text())
    split, to_bytes = stored["pre_tokenizer"]["pretokenizers"]
    words = split["pattern"]["Regex"]
    words = {"Regex": words[words.index("'s|'t") :]}
    older = [split | {"pattern": words}, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}]
    wrong = [split | {"pattern": {"Regex": "(a+)+"}}, to_bytes]
    pre = {"pre_tokenizer": stored["pre_tokenizer"] | {"pretokenizers": older}}
    (source / "older.json").write_text(json.dumps(stored | pre))
    vocabulary = Tokenizer(path=str(source / "older.json")).read()
    start, end = vocabulary.bos, vocabulary.eos
    assert [[start, *ids, end] for ids in vocabulary.encode_batch(expected["texts"])] == expected["ids"]
    added = [*stored["added_tokens"], stored["added_tokens"][0] | {"content": "fox", "id": 544}]
    vocab = {"ý</w>" if token == "a</w>" else token: number for token, number in stored["model"]["vocab"].items()}
    for values in (
        {"pre_tokenizer": stored["pre_tokenizer"] | {"pretokenizers": wrong}},
        {"normalizer": None},
        {"added_tokens": added},
        {"model": stored["model"] | {"dropout": 0.1}},
        {"model": stored["model"] | {"vocab": vocab}},
        {"pre_tokenizer": None},
    ):
        (source / "other.json").write_text(json.dumps(stored | values))
        with pytest.raises(UserError, match="is a tokenizer of another make"):
            Tokenizer(path=str(source / "other.json")).read()
    source, _ = published("siglip")
    stored = json.loads((source / "tokenizer.json").read_text())
    table = {"type": "Precompiled", "precompiled_charsmap": "bm90IGEgdGFibGU="}
    parts = stored["normalizer"]["normalizers"]
    found = bare(stored | {"normalizer": {"type": "Sequence", "normalizers": [*parts, table]}})
    assert found["normalizer"]["normalizers"][2:] == [table] and ours(found) and ours(bare(found))
    assert not ours(bare(stored | {"normalizer": {"type": "Sequence", "normalizers": [parts[0], table]}}))
    negated = parts[1] | {"pattern": {"Regex": parts[1]["pattern"]["Regex"].replace("[", "[^", 1)}}
    assert not ours(bare(stored | {"normalizer": {"type": "Sequence", "normalizers": [parts[0], negated]}}))


def test_what_ends_a_text_pads_it_in_image_text_alone(published, tmp_path):  # noqa: F811
    source, _ = published("clip")
    task = Captioning(tokenizer=Tokenizer(path=str(source / "vocab.json")))
    with pytest.raises(UserError, match=r"task\.tokenizer pads texts with the mark that ends them.*image_text alone"):
        task.prepare(None, tmp_path)
