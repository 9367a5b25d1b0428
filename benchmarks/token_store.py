"""Tokens of a large text: rate beside the `tokenizers` library alone, memory, and the second start.

    python -m benchmarks.token_store --megabytes=100

Makes a text of words with Zipf's frequencies and an 8,000-token BPE vocabulary of it. Then, each in a process of its
own: the library encodes the same lines and throws the ids away; a language model's rows are made and kept; they are
opened again and give a batch. Memory is the proportional set size (PSS), sampled twenty times a second.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ALONE = """
import itertools, sys, time
from research.data.plain_text import cut, read_pieces
from research.data.tokenizer import TrainedTokenizer
tokenizer = TrainedTokenizer.load(sys.argv[2])._tokenizer
began = time.perf_counter()
tokens = 0
for piece in read_pieces(sys.argv[1]):
    lines = cut(piece)
    texts = ["".join(lines[first : first + 50]) for first in range(0, len(lines), 50)]  # faster than single lines
    tokens += sum(len(each.ids) for each in tokenizer.encode_batch_fast(texts))
print(tokens, time.perf_counter() - began)
"""
STORED = """
import sys, time
from research.data.text_file import TextFile
from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.tasks.language_modeling import LanguageModeling
import numpy as np
vocabulary = TrainedTokenizer.load(sys.argv[2])
began = time.perf_counter()
source = TextFile(sys.argv[1], 0.0)
task = LanguageModeling(Tokenizer("bpe", 8000), 128, vocabulary=vocabulary)
source.fingerprint("train")
rows = task.rows(source.examples("train"), train=True, seed=0)
rows.batch(np.arange(32), np.zeros(32, np.int64), None)
print(len(rows.stream), time.perf_counter() - began)
"""


def write_text(path: Path, megabytes: int) -> None:
    """Lines of 4 to 24 words out of 200,000, with Zipf's frequencies."""
    random = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    weights = 1 / np.arange(1, 27)
    sizes = random.integers(2, 11, 200_000)
    drawn = random.choice(letters, sizes.sum(), p=weights / weights.sum())
    words = ["".join(part) for part in np.split(drawn, np.cumsum(sizes)[:-1])]
    frequencies = 1 / np.arange(1, len(words) + 1)
    done = 0
    with path.open("w") as file:
        while done < megabytes * 10**6:
            chosen = random.choice(len(words), 200_000, p=frequencies / frequencies.sum())
            ends = np.cumsum(random.integers(4, 25, 200_000))
            ends = set(ends[ends < 200_000].tolist())
            text = "".join(words[word] + ("\n" if place in ends else " ") for place, word in enumerate(chosen)) + "\n"
            done += file.write(text)


def measured(code: str, *arguments: str) -> tuple[int, float, float]:
    """What a process prints (tokens and seconds), and the most memory it had, in GB."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        most = 0
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
                most = max(most, next(int(line.split()[1]) for line in lines if line.startswith("Pss:")))
            except (OSError, StopIteration):
                pass
            time.sleep(0.05)
        words = process.stdout.read().split()
    return int(words[-2]), float(words[-1]), most / 1e6


def main(megabytes: int, repeats: int) -> None:
    """Prints a line for each measurement."""
    from research.data.plain_text import read_pieces
    from research.data.tokenizer import Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        text, vocabulary = Path(folder) / "text.txt", Path(folder) / "tokenizer.json"
        write_text(text, megabytes)
        began = time.perf_counter()
        Tokenizer("bpe", 8000).train(read_pieces(str(text))).save(vocabulary)
        print(f"vocabulary: {time.perf_counter() - began:.1f} s")
        size = text.stat().st_size / 1e6
        for _ in range(repeats):
            alone, alone_seconds, _ = measured(ALONE, str(text), str(vocabulary))
            tokens, seconds, memory = measured(STORED, str(text), str(vocabulary))
            assert tokens == alone, (tokens, alone)
            again, again_seconds, _ = measured(STORED, str(text), str(vocabulary))
            assert again == tokens
            print(
                f"{size:.0f} MB, {tokens:,} tokens: alone {size / alone_seconds:.2f} MB/s, kept {size / seconds:.2f} "
                f"MB/s (ratio {alone_seconds / seconds:.3f}), {memory:.2f} GB at most; opened again with a batch in "
                f"{again_seconds:.3f} s",
                flush=True,
            )
            for path in Path(folder).glob("*.tokens/*"):
                for file in path.iterdir() if path.is_dir() else ():
                    file.unlink()
                path.rmdir() if path.is_dir() else path.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    main(arguments.megabytes, arguments.repeats)
