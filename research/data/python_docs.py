"""English prose that every Python carries: its help topics and the docstrings of its standard library."""

import ast
import functools
import hashlib
import inspect
import platform
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from research.data.source import Example, Source, check_split
from research.ranges import Range

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class PythonDocs(Source):
    """About 1.3 MB of text, {"text": document}: a help topic each, or the docstrings of one module.

    The text is that of the Python that runs, and so differs a little between its versions: the fingerprint says which
    it is, and `version` names it. held_out: of that many documents one validates, and the one after it tests.
    """

    held_out: Annotated[int, Range(3, 50)] = 20

    splits = ("train", "validation", "test")

    @property
    def version(self) -> str:
        """The Python whose text it is."""
        return platform.python_version()

    def examples(self, split: str) -> Sequence[Example]:
        check_split(split, self.splits)
        place = {"validation": 0, "test": 1}
        return [
            {"text": text}
            for number, text in enumerate(_documents())
            if (number % self.held_out == place[split] if split in place else number % self.held_out > 1)
        ]

    def fingerprint(self, split: str) -> str:
        """A digest of all documents of the split and of Python's version."""
        digest = hashlib.sha256(self.version.encode())
        for example in self.examples(split):
            digest.update(example["text"].encode() + b"\0")
        return digest.hexdigest()


@functools.cache
def _documents() -> tuple[str, ...]:
    """Help topics by name, then modules by name."""
    from pydoc_data.topics import topics  # half a megabyte that only this should load

    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [topics[name] for name in sorted(topics)] + [_docstrings(path) for path in modules]
    return tuple(dict.fromkeys(text for text in texts if len(text) > 200))  # less is a heading


def _docstrings(path: Path) -> str:
    """Those of a module, its classes and functions, in their order, parted by empty lines."""
    tree = ast.parse(path.read_bytes())
    found = [ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
    return "\n\n".join(inspect.cleandoc(text) for text in found if text)
