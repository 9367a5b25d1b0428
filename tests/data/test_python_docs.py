import hashlib
import platform
import textwrap

from research.data.python_docs import PythonDocs


def test_topics_and_docstrings_are_there_once():
    source = PythonDocs()
    texts = {split: [example["text"] for example in source.examples(split)] for split in source.splits}
    everything = [text for split in texts.values() for text in split]
    assert len(set(everything)) == len(everything) and sum(map(len, everything)) > 700_000
    assert any('The "assert" statement' in text for text in everything)
    (document,) = [text for text in everything if text.startswith(textwrap.__doc__.strip())]
    assert "Remove any common leading whitespace" in document
    assert 0.02 < len(texts["test"]) / len(everything) < 0.1


def test_the_fingerprint_says_which_python_it_was():
    source = PythonDocs()
    digest = hashlib.sha256(platform.python_version().encode())
    for example in source.examples("test"):
        digest.update(example["text"].encode() + b"\0")
    assert source.fingerprint("test") == digest.hexdigest() and source.version == platform.python_version()
