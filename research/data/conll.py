"""Tagged words: columns as in CoNLL's tasks (a word a line, empty lines between sentences), and CoNLL-U."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from research.data.plain_text import lines_of, read_text
from research.data.source import Example
from research.data.split_files import SplitFiles
from research.errors import UserError
from research.ranges import Range

Column = Annotated[int, Range(1, 100)]


@dataclass(frozen=True)
class Conll(SplitFiles):
    """Sentences {"source": words, "target": their tags}, both parted by single spaces; a space in a word is U+00A0.

    word, tag: their columns, counted from 1; 2 and 4 (the form and the universal part of speech) of a file with .conllu
    in its name, in which comments, ranges of words ("1-2") and empty nodes ("8.1") are skipped; the first and the last
    of any other, in which lines that begin with -DOCSTART- are skipped.
    """

    word: Column | None = None
    tag: Column | None = None

    def read(self, path: str) -> list[Example]:
        universal = ".conllu" in path
        sentences: list[list[tuple[str, str]]] = [[]]
        for number, line in enumerate(lines_of(read_text(path)), 1):
            if not line.strip():
                sentences.append([])
            elif universal and (line.startswith("#") or not line.split("\t")[0].isdigit()):
                continue
            elif universal or not line.startswith("-DOCSTART-"):
                fields = line.split("\t") if universal else line.split()
                sentences[-1].append(self._pair(fields, number, path, universal))
        return [
            {"source": " ".join(word for word, _ in pairs), "target": " ".join(tag for _, tag in pairs)}
            for pairs in sentences
            if pairs
        ]

    def _pair(self, fields: Sequence[str], number: int, path: str, universal: bool) -> tuple[str, str]:
        word, tag = (self.word or 2, self.tag or 4) if universal else (self.word or 1, self.tag or len(fields))
        if max(word, tag) > len(fields) or (word == tag and not self.tag):
            raise UserError(
                f"line {number} of {path} has {len(fields)} columns, and no word and tag in columns {word} and "
                f"{max(tag, 2)}: set data.word and data.tag to their columns"
            )
        return fields[word - 1].replace(" ", "\u00a0"), fields[tag - 1].replace(" ", "\u00a0")
