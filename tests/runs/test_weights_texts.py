"""Published models of texts with their own tokenizers as runs that answer, beside the reference library's answers."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

import research.runs
from experiments.train import train
from research.errors import UserError
from research.runs.experiment import open_run, trained
from tests.runs.test_weights import CONFIG, arrays_of, changed, command

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "texts"


@pytest.fixture
def published(tmp_path):
    """`published("roberta")`: a copy of a golden model, and what the reference library answers."""

    def copy(name):
        shutil.copytree(GOLDEN / name, tmp_path / name, ignore=shutil.ignore_patterns("answers.json", "own.json"))
        return tmp_path / name, json.loads((GOLDEN / name / "answers.json").read_text())

    return copy


def same_weights(run, first, second):
    """Whether the two folders' arrays are the same, but for those that the run's certificate says were left out."""
    before, after = (load_file(folder / "model.safetensors") for folder in (first, second))
    dropped = json.loads((run / "certificate.json").read_text())["dropped"].keys()
    return before.keys() - dropped == after.keys() and all(np.array_equal(before[name], after[name]) for name in after)


@pytest.mark.parametrize("file", ["vocab.json", "tokenizer.json"])
def test_a_roberta_finds_what_the_reference_finds(file, published, tmp_path):
    """Special ids 0 to 3 and the last, padding 1, positions from 2; a space before a mask belongs to it."""
    source, expected = published("roberta")
    if file == "tokenizer.json":
        (source / "vocab.json").unlink()
        shutil.copy(GOLDEN / "roberta" / "own.json", source / file)
    run, out = tmp_path / "run", tmp_path / "out"
    command("import", source, run)
    command("verify", run)
    task = open_run(run).task
    vocabulary = task.vocabulary
    assert [vocabulary.bos, vocabulary.pad, vocabulary.eos, vocabulary.unk, vocabulary.mask] == [0, 1, 2, 3, 299]
    assert [[0, *ids, 2] for ids in vocabulary.encode_batch(expected["texts"])] == expected["ids"]
    texts = [text.replace("<mask>", "[MASK]") for text in expected["masked"]]
    rows = task.questions([task.example(text) for text in texts]).first(len(texts))["tokens"]
    assert [[int(token) for token in row if token != 1] for row in rows] == expected["masked_ids"]
    answers = research.runs.open(run).answer(texts)
    for answer, found in zip(answers, expected["found"], strict=True):
        assert answer["words"] == [vocabulary.piece(token) for token, _ in found]
        assert answer["probability"] == pytest.approx(np.prod([chance for _, chance in found]), rel=1e-4)
    for text, answer, found in zip(texts, answers, expected["found"], strict=True):
        for token, _ in found:  # with the space that it begins with, if it does
            before, _, after = text.partition("[MASK]")
            text = before.rstrip() + vocabulary.decode([token]) + after
        assert answer["text"] == text
    command("export", run, out)
    assert same_weights(run, source, out)
    own, again = (
        tokenizers.Tokenizer.from_file(str(file)) for file in (GOLDEN / "roberta/own.json", out / "tokenizer.json")
    )
    for text in [*expected["texts"], *expected["masked"]]:
        assert own.encode(text).ids == again.encode(text).ids
    assert own.encode("a b", "the fox").ids == again.encode("a b", "the fox").ids
    command("import", out, tmp_path / "again")
    before, after = arrays_of(run), arrays_of(tmp_path / "again")
    assert before.keys() == after.keys() and all(np.array_equal(before[path], after[path]) for path in before)


@pytest.mark.parametrize("config", ["masked_language", "text_classification"])
def test_a_fine_tune_of_an_imported_roberta(config, published, tmp_path):
    source, _ = published("roberta")
    run = tmp_path / "run"
    command("import", source, run)
    model = json.loads((run / "config.json").read_text())["model"]
    section = {"name": config, "tokenizer": {"path": str(run / "tokenizer.json")}, "length": 16}
    lines = [f"The quick brown fox, {number} times.\t{number % 2}" for number in range(12)]
    (tmp_path / "text.txt").write_text("\n\n".join(lines))
    (tmp_path / "table.tsv").write_text("\n".join(["text\tlabel", *lines]))
    data = {"name": "text_file", "path": str(tmp_path / "text.txt")}
    transfer = {"source": "", "new": []}
    if config == "text_classification":
        data = {"name": "table", "path": str(tmp_path / "table.tsv")}
        model["head"] = "none"
        transfer = {"source": "", "drop": ["^masked/"]}
    content = {
        "model": model,
        "task": section,
        "data": data,
        "optimizer": {"name": "adamw", "learning_rate": 0.0},
        "training": {"batch_size": 2, "duration": {"steps": 2}},
        "transfer": transfer,
    }
    (tmp_path / "config.py").write_text(CONFIG.format(config=content))
    results = train(str(tmp_path / "config.py"), tmp_path / "tuned", {}, str(run))
    assert all(np.isfinite(value) for value in results.values())
    before, after = arrays_of(run), arrays_of(tmp_path / "tuned")
    same = [path for path in after if path in before and np.array_equal(after[path], before[path])]
    assert {*after} - {*same} == ({"params/head/kernel", "params/head/bias"} if "drop" in transfer else set())


@pytest.mark.parametrize("name", ["t5", "marian"])
def test_a_translation_is_the_references(name, published, tmp_path):
    """Tokens of texts and what is written, token by token; the way back is bit for bit."""
    source, expected = published(name)
    run, out = tmp_path / "run", tmp_path / "out"
    command("import", source, run)
    command("verify", run)
    experiment, variables, _ = trained(run)
    vocabulary = experiment.task.vocabulary
    assert vocabulary.vocab_size == experiment.model.vocab_size
    assert [[*ids, vocabulary.eos] for ids in vocabulary.encode_batch(expected["texts"])] == expected["ids"]
    task = experiment.task.answering(extra_length=11)
    rows = task.questions([task.example(text) for text in expected["texts"]]).first(3)
    rows = {key: jnp.asarray(array) for key, array in rows.items()}
    found = np.asarray(task.predict(experiment.model, variables, rows))
    assert set(found[:, 0]) == {vocabulary.pad}
    for row, written in zip(found[:, 1:].tolist(), expected["written"], strict=True):
        assert row[: len(written)] == written
    assert [vocabulary.decode(written) for written in expected["written"]] == expected["decoded"]
    answers = research.runs.open(run).answer(expected["texts"])
    ended = [number for number, written in enumerate(expected["written"]) if written[-1] == vocabulary.eos]
    assert ended and all(answers[number]["text"] == expected["decoded"][number] for number in ended)
    tokens = task.view(task.example(expected["texts"][0]), answers[0]).tokens
    said = [vocabulary.id_to_token(token) for token in vocabulary.encode(answers[0]["text"])]
    start, end = (vocabulary.id_to_token(token) for token in (vocabulary.bos, vocabulary.eos))  # the start is padding's
    assert tokens["target_input"] == [start, *said] and tokens["target_output"] == [*said, end]
    command("export", run, out)
    assert same_weights(run, source, out)
    own, again = (tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (source, out))
    assert own.get_vocab() == again.get_vocab()
    assert [own.encode(text).ids for text in expected["texts"]] == [
        again.encode(text).ids for text in expected["texts"]
    ]
    command("import", out, tmp_path / "again")
    before, after = arrays_of(run), arrays_of(tmp_path / "again")
    assert before.keys() == after.keys() and all(np.array_equal(before[path], after[path]) for path in before)


def test_a_reference_of_a_translation(tmp_path):
    """Logits for tokens that are given, within 1e-4."""
    source = tmp_path / "t5"
    shutil.copytree(GOLDEN.parent / "transformers" / "t5_gated", source)
    shutil.copy(GOLDEN / "t5" / "tokenizer.json", source)
    stored = json.loads((source / "tokenizer.json").read_text())
    stored["model"]["vocab"] = stored["model"]["vocab"][:38]
    stored["added_tokens"] = stored["added_tokens"][:3]
    (source / "tokenizer.json").write_text(json.dumps(stored))
    command("import", source, tmp_path / "run", "--reference", source / "answers.safetensors")
    certificate = json.loads((tmp_path / "run" / "certificate.json").read_text())
    assert certificate["reference"]["largest_difference"] < 1e-4


def test_special_tokens_in_a_text_are_no_marks(published, tmp_path):
    """Nor are the tokens that fill the table up; the words are unknown or pieces of them."""
    source, _ = published("t5")
    command("import", source, tmp_path / "run")
    vocabulary = open_run(tmp_path / "run").task.vocabulary
    filling = [token for token in vocabulary.ids if token.startswith("<unused ")]
    assert len(filling) == 5
    found = vocabulary.encode(f"the </s> <pad> {filling[0]} fox")
    assert not {vocabulary.eos, vocabulary.pad, *(vocabulary.ids[token] for token in filling)} & {*found}


def test_padding_of_a_roberta_is_not_seen(published, tmp_path):
    """Its id is 1, and 0 starts a text: a text answers alone as it does beside a longer one."""
    source, _ = published("roberta")
    command("import", source, tmp_path / "run")
    run = research.runs.open(tmp_path / "run")
    short, long = "The [MASK].", "The quick brown fox jumps over the lazy [MASK], times and times again, to be or not."
    (alone,), (beside, _) = run.answer([short]), run.answer([short, long])
    assert alone["words"] == beside["words"] and alone["probability"] == pytest.approx(beside["probability"], rel=1e-5)


def test_a_roberta_of_sentences_has_no_rows_of_positions_for_two_tokens(published, tmp_path):
    """66 rows are 64 tokens: its positions count from 2 (padding_idx + 1), so that a long text is cut before them."""
    source, _ = published("roberta")
    changed(source, architectures=["RobertaModel"])
    arrays = load_file(source / "model.safetensors")
    save_file({key: array for key, array in arrays.items() if "lm_head" not in key}, source / "model.safetensors")
    (source / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 66}))
    command("import", source, tmp_path / "run")
    assert open_run(tmp_path / "run").task.length == 64
    (answer,) = research.runs.open(tmp_path / "run").answer(["to be or not " * 30])
    assert np.isfinite(answer["vector"]).all()
    command("export", tmp_path / "run", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "sentence_bert_config.json").read_text())["max_seq_length"] == 64


def damaged(folder, name, change):
    stored = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(change(stored)))


WRONG = {
    "no merges": (lambda f: (f / "merges.txt").unlink(), r"merges\.txt"),
    "merges of unknown tokens": (lambda f: (f / "merges.txt").write_text("x qq\n"), "cannot be read as a tokenizer"),
    "merges of three": (lambda f: (f / "merges.txt").write_text("a b c\n"), "cannot be read as a tokenizer"),
    "a hole": (lambda f: damaged(f, "vocab.json", lambda v: v | {"times": 400}), "is a tokenizer of another make"),
    "no mask": (
        lambda f: damaged(f, "vocab.json", lambda v: {x: y for x, y in v.items() if x != "<mask>"}),
        "has 299 tokens and the model's table 300 rows",
    ),
    "no padding": (
        lambda f: damaged(f, "vocab.json", lambda v: {"<p>" if x == "<pad>" else x: y for x, y in v.items()}),
        "other special tokens, as <pad> is missing",
    ),
    "another padding": (lambda f: changed(f, pad_token_id=0), "pad_token_id 0: only models with 1"),
    "no vocabulary": (lambda f: (f / "vocab.json").unlink(), "has neither tokenizer.json nor vocab.txt nor vocab.json"),
    "positions": (lambda f: changed(f, max_position_embeddings=50), r"position_embeddings\.weight is \(66, 16\)"),
}  # fmt: skip


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "source.spm").write_bytes(b"\n\x10")


def tokenizer(folder, **values):
    damaged(folder, "tokenizer.json", lambda stored: stored | values)


def unigram(folder, change):
    damaged(folder, "tokenizer.json", lambda stored: stored | {"model": stored["model"] | change(stored["model"])})


TABLE = {"type": "Precompiled", "precompiled_charsmap": "bm90IGEgdGFibGU="}
WRONG_PAIRS = {
    "source.spm": (without_tokenizer, r"has its tokenizer as source\.spm, .*: convert it to a tokenizer"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has neither tokenizer.json nor"),
    "a rule of its own": (lambda f: tokenizer(f, normalizer={"type": "Lowercase"}), "is a tokenizer of another make"),
    "a damaged table": (lambda f: tokenizer(f, normalizer=TABLE), "cannot be read as a tokenizer"),
    "other spaces": (lambda f: tokenizer(f, decoder={"type": "Metaspace", "replacement": "_"}), "of another make"),
    "no unknown": (lambda f: unigram(f, lambda model: {"unk_id": None}), "is a tokenizer of another make"),
    "another unknown": (lambda f: unigram(f, lambda model: {"unk_id": 7}), "is a tokenizer of another make"),
    "a piece twice": (
        lambda f: unigram(f, lambda model: {"vocab": [*model["vocab"], model["vocab"][9]]}),
        "is a tokenizer of another make",
    ),
    "scores of no kind": (
        lambda f: unigram(f, lambda model: {"vocab": [[token, "x"] for token, _ in model["vocab"]]}),
        "is a tokenizer of another make",
    ),
    "too many tokens": (
        lambda f: unigram(f, lambda model: {"vocab": [*model["vocab"], *[[f"more {n}", -9.0] for n in range(9)]]}),
        "has [0-9]+ tokens and the model's table [0-9]+ rows",
    ),
    "another end": (lambda f: changed(f, eos_token_id=2), "has eos_token_id 2 and the tokenizer 1: give the tokenizer"),
    "another start": (lambda f: changed(f, decoder_start_token_id=5), "decoder_start_token_id 5 and the tokenizer 0"),
    "another width": (lambda f: changed(f, d_ff=25), r"shapes differ \("),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_PAIRS)
def test_what_is_wrong_with_a_translator_is_one_sentence(name, published, tmp_path):
    source, _ = published("t5")
    spoil, sentence = WRONG_PAIRS[name]
    spoil(source)
    with pytest.raises(UserError, match=sentence) as error:
        command("import", source, tmp_path / "run")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert {path.name for path in tmp_path.iterdir()} == {"t5"}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_roberta_is_one_sentence(name, published, tmp_path):
    source, _ = published("roberta")
    spoil, sentence = WRONG[name]
    spoil(source)
    with pytest.raises(UserError, match=sentence) as error:
        command("import", source, tmp_path / "run")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert {path.name for path in tmp_path.iterdir()} == {"roberta"}
