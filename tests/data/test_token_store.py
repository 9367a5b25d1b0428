"""Tokens that are kept: the same as those made at once, after any kill, for any reader, and never of another text."""

import gzip
import json
import os
import signal
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from research.data import lines, plain_text, texts, token_store
from research.data.text_file import ParallelText, TextFile
from research.data.token_store import Mapped
from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.tasks import translation
from research.tasks.language_modeling import LanguageModeling
from research.tasks.translation import Translation

TEXT = "".join(f"Satz {number} hat ünd {number * number} Wörter.\n" for number in range(400))


CHUNKS = 8


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch):
    """Everything is kept, in chunks of a few lines."""
    for module, name, value in (
        *((token_store, "SMALL", 0), (token_store, "SAVE_EVERY", 2), (plain_text, "PIECE", 500)),
        *((texts, "CHUNK", 1000), (translation, "CHUNK", 16), (lines, "BLOCK", 7)),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each chunk that is encoded."""
    calls: list[int] = []
    encode = LanguageModeling._encode

    def counting(self, chunk, several):
        calls.append(len(chunk))
        return encode(self, chunk, several)

    monkeypatch.setattr(LanguageModeling, "_encode", counting)
    return calls


def task_of(text: str, kind: str = "bpe") -> LanguageModeling:
    tokenizer = Tokenizer(kind, 300 if kind == "bpe" else None)
    return LanguageModeling(tokenizer, 16, vocabulary=tokenizer.train([text]))


def expected(task: LanguageModeling, text: str) -> tuple[list[int], list[int]]:
    """Tokens and bytes as they are without a store, at once."""
    arrays, _ = task._encode([(text, True)], several=False)
    return arrays["tokens"].tolist(), arrays["bytes"].tolist()


@pytest.mark.parametrize("kind", ["bpe", "character", "word"])
def test_a_store_holds_the_tokens_of_the_whole_text(tmp_path: Path, little, counted: list[int], kind: str):
    (tmp_path / "a.txt").write_text(TEXT)
    task, source = task_of(TEXT, kind), TextFile(str(tmp_path / "a.txt"), 0.25)
    train, validation = (source.examples(split) for split in source.splits)
    rows = task.rows(train, train=True, seed=0)
    assert len(counted) > 4 and isinstance(rows.stream, Mapped)
    cut = int(len(TEXT) * 0.75)
    for found, text in ((rows, TEXT[:cut]), (task.rows(validation, train=False, seed=0), TEXT[cut:])):
        assert found.stream.dtype == np.uint16
        assert sum(found.bytes.tolist()) == len(text.encode())
        assert found.stream.tolist() == expected(task, text)[0]
    before = len(counted)
    again = TextFile(str(tmp_path / "a.txt"), 0.25).examples("train")
    assert task.rows(again, train=True, seed=1).bytes.tolist() == rows.bytes.tolist() and len(counted) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "a.txt.tokens"]


def test_another_tokenizer_or_text_has_another_store(tmp_path: Path, little, counted: list[int]):
    file = tmp_path / "a.txt"
    file.write_text(TEXT)
    source = TextFile(str(file), 0.0)
    first = task_of(TEXT)
    tokens = first.rows(source.examples("train"), train=True, seed=0).stream
    other = task_of(TEXT, "word")
    assert other.rows(source.examples("train"), train=True, seed=0).stream.tolist() == expected(other, TEXT)[0]
    kept = tokens.tolist()
    file.write_text(TEXT[::-1])
    changed = first.rows(source.examples("train"), train=True, seed=0).stream
    assert changed.tolist() == expected(first, TEXT[::-1])[0] and tokens.tolist() == kept  # the old one stays open
    before = len(counted)
    os.utime(file, ns=(1, 1))  # the same text, touched
    assert first.rows(source.examples("train"), train=True, seed=0).stream.tolist() == changed.tolist()
    assert len(counted) == before


def test_the_cache_is_where_the_variable_says(tmp_path: Path, little, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_text(TEXT)
    monkeypatch.setenv(token_store.CACHE_VARIABLE, str(tmp_path / "cache"))
    task_of(TEXT).rows(TextFile(str(tmp_path / "data/a.txt"), 0.0).examples("train"), train=True, seed=0)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["a.txt"]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path, little):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "a.txt.tokens").write_text("a file of that name")
    with pytest.raises(UserError, match=r"a.txt.tokens cannot be written .*give --cache=FOLDER another place"):
        task_of(TEXT).rows(TextFile(str(tmp_path / "a.txt"), 0.0).examples("train"), train=True, seed=0)


def test_a_full_disk_is_a_sentence(tmp_path: Path, little, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.txt").write_text(TEXT)

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_store.os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*--cache"):
        task_of(TEXT).rows(TextFile(str(tmp_path / "a.txt"), 0.0).examples("train"), train=True, seed=0)


@pytest.mark.parametrize("at", [0, 1, 3, 5])
def test_what_was_interrupted_is_continued(tmp_path: Path, little, counted, monkeypatch: pytest.MonkeyPatch, at: int):
    """Stopped while chunk `at` is encoded: only what was not saved is encoded again, and the arrays are the same."""
    (tmp_path / "a.txt").write_text(TEXT)
    source, task = TextFile(str(tmp_path / "a.txt"), 0.0), task_of(TEXT)
    number = iter(range(1000))

    def stopping(chunks, encode, skipped=0):
        for chunk in itertools_islice(chunks, skipped):
            if next(number) == at:
                raise KeyboardInterrupt
            yield encode(chunk)

    with monkeypatch.context() as patch:
        patch.setattr(token_store, "_encoded", stopping)
        with pytest.raises(KeyboardInterrupt):
            task.rows(source.examples("train"), train=True, seed=0)
    before = len(counted)
    rows = task.rows(source.examples("train"), train=True, seed=0)
    assert len(counted) - before == CHUNKS - at // 2 * 2
    assert (rows.stream.tolist(), rows.bytes.tolist()) == expected(task, TEXT)


def itertools_islice(chunks, skipped):
    for number, chunk in enumerate(chunks):
        if number >= skipped:
            yield chunk


@pytest.mark.parametrize("spoil", ["empty", "json", "short", "missing", "counts", "folder", "ids"])
def test_a_spoilt_store_is_made_again(tmp_path: Path, little, spoil: str):
    (tmp_path / "a.txt").write_text(TEXT)
    source, task = TextFile(str(tmp_path / "a.txt"), 0.0), task_of(TEXT)
    task.rows(source.examples("train"), train=True, seed=0)
    (notes,) = (tmp_path / "a.txt.tokens").glob("*/store.json")
    if spoil == "short":
        os.truncate(notes.with_name("bytes"), 10)
    elif spoil == "ids":  # which a device would clamp without a word
        notes.with_name("tokens").write_bytes(b"\xff" * notes.with_name("tokens").stat().st_size)
    elif spoil == "missing":
        notes.with_name("tokens").unlink()
    elif spoil == "folder":
        notes.unlink()
        notes.mkdir()
    else:
        stored = json.loads(notes.read_text())
        broken = {"empty": "", "json": "{", "counts": json.dumps(stored | {"counts": {"tokens": "many"}})}
        notes.write_text(broken[spoil])
    rows = task.rows(source.examples("train"), train=True, seed=0)
    assert (rows.stream.tolist(), rows.bytes.tolist()) == expected(task, TEXT)


def test_worker_processes_get_the_path_and_no_copy(tmp_path: Path):
    np.arange(10**6, dtype=np.uint16).tofile(tmp_path / "tokens")
    array = Mapped(tmp_path / "tokens", np.dtype(np.uint16))
    packed = ForkingPickler.dumps(array)  # as multiprocessing sends it
    assert len(packed) < 1000 and ForkingPickler.loads(packed).tolist() == array.tolist()
    assert ForkingPickler.loads(ForkingPickler.dumps(array[3:5])).tolist() == [3, 4]
    assert (array + 1).tolist()[:2] == [1, 2]


@pytest.mark.parametrize("compressed", [False, True])
def test_pairs_of_a_store_are_those_made_at_once(tmp_path: Path, little, monkeypatch, compressed: bool):
    sides = {
        "de": "".join(f"Satz {number} ünd {'lang ' * (number % 9)}\r\n" for number in range(100)),
        "en": "".join(f"sentence {number} {'long ' * (number % 7)}\n" for number in range(100)).rstrip("\n"),
    }
    for name, text in sides.items():
        content = b"\xef\xbb\xbf" + text.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if compressed else content)
    source = ParallelText(str(tmp_path / "de"), str(tmp_path / "en"))
    pairs = source.examples("train")
    plain = [
        {"source": a.rstrip("\r"), "target": b}
        for a, b in zip(sides["de"].split("\n"), sides["en"].split("\n"), strict=False)
    ]
    assert list(pairs) == plain == [pairs[index] for index in range(len(pairs))] and pairs[-1] == plain[-1]
    tokenizer = Tokenizer("word")
    vocabulary = tokenizer.train(text for pair in plain for text in pair.values())
    task = Translation(tokenizer, max_length=9, vocabulary=vocabulary, target_vocabulary=vocabulary)
    kept = task.rows(pairs, train=True, seed=0)
    assert isinstance(kept.source.tokens, Mapped)
    made = task.rows(plain, train=True, seed=0)
    assert len(kept) == len(made) < len(plain)
    assert kept.lengths().tolist() == made.lengths().tolist() and kept.tokens().tolist() == made.tokens().tolist()
    indices = np.arange(len(made))
    for name, array in made.batch(indices, indices, None).items():
        assert (kept.batch(indices, indices, None)[name] == array).all() and array.dtype == np.int32


SCRIPT = """
import sys
from research.data import plain_text, texts, token_store
token_store.SMALL, token_store.SAVE_EVERY, plain_text.PIECE, texts.CHUNK = 0, 2, 500, 1000
from research.data.text_file import TextFile
from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.tasks.language_modeling import LanguageModeling
path, vocabulary, pause = sys.argv[1:]
encode = LanguageModeling._encode
def slow(self, chunk, several):
    import time
    time.sleep(float(pause))
    print("chunk", flush=True)
    return encode(self, chunk, several)
LanguageModeling._encode = slow
task = LanguageModeling(Tokenizer("word"), 16, vocabulary=TrainedTokenizer.load(vocabulary))
rows = task.rows(TextFile(path, 0.0).examples("train"), train=True, seed=0)
print(len(rows.stream), int(rows.stream.astype(int).sum()), int(rows.bytes.astype(int).sum()))
"""


def start(path: Path, vocabulary: Path, pause: float) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(path), str(vocabulary), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_share_the_work_and_survive_a_kill(tmp_path: Path):
    """One is killed at its sixth chunk; two start together: one continues, the other waits and makes nothing."""
    (tmp_path / "a.txt").write_text(TEXT)
    task = task_of(TEXT, "word")
    task.vocabulary.save(tmp_path / "vocabulary.json")
    arguments = (tmp_path / "a.txt", tmp_path / "vocabulary.json")
    killed = start(*arguments, 0.1)
    for _ in range(6):
        killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    both = [start(*arguments, 0.02) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0].splitlines() for process in both]
    tokens, sizes = expected(task, TEXT)
    assert {output[-1] for output in outputs} == {f"{len(tokens)} {sum(tokens)} {sum(sizes)}"}
    chunks = sorted(output.count("chunk") for output in outputs)
    assert chunks[0] == 0 and chunks[1] <= CHUNKS - 2
