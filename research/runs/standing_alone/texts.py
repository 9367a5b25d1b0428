"""Texts in and out of an exported model: what becomes of a text, and what is said of the raw answers to it.

INPUTS and ANSWERS are named by `kind` in the sections "input" and "answer" of `export.json`. An input makes rows, dicts
of arrays, and what its answer has to know of it.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from research.errors import UserError


class Text:
    """A vocabulary: a file of the tokenizers library, and what `export.json` says of its special tokens."""

    def __init__(self, folder: Path, rules: dict[str, Any]):
        self.rules = rules
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / rules["file"]))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; none is a special token, whatever the text says."""
        try:
            found = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        except Exception as error:  # of the library, for what it has no token for
            raise UserError(f"a text cannot be encoded ({error}): leave out what training had not seen") from error
        if not self.rules["hides_special"]:
            return found
        return [[self.rules["unknown"] if token in self.rules["special"] else token for token in ids] for ids in found]

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the mark that ends it."""
        kept = []
        for token in map(int, ids):
            if token == self.rules["end"]:
                break
            if token not in self.rules["special"]:
                kept.append(token)
        return self._tokenizer.decode(kept)


def _marked(model: Any, first: Sequence[int], second: Sequence[int] | None = None) -> dict[str, Any]:
    """Tokens between marks, and which text each is of."""
    start, end = model.text.rules["start"], model.text.rules["end"]
    between = [end] * model.text.rules["marks_between"]
    tokens = [start, *first, end] if second is None else [start, *first, *between, *second, end]
    return {"tokens": tokens, "segments": np.arange(len(tokens)) > len(first) + len(between)}


def text(model: Any, item: str) -> tuple[list[dict[str, Any]], Any]:
    """A text, or two with a tab between them, of which the longer one is cut first."""
    first, *others = model.text.encode(item.split("\t" if "\t" in item else "\\t", 1))
    length = model.input["length"]
    if not others:
        return [_marked(model, first[: length - 2])], None
    second, room = others[0], length - 2 - model.text.rules["marks_between"]
    half = room // 2
    if len(first) + len(second) > room:
        if len(second) <= half:
            first = first[: room - len(second)]
        elif len(first) <= room - half:
            second = second[: room - len(first)]
        else:
            first, second = first[: room - half], second[:half]
    return [_marked(model, first, second)], None


def words(model: Any, item: str) -> tuple[list[dict[str, Any]], Any]:
    """Rows of whole words, and where in each row its words begin."""
    between = "" if model.text.rules["parts_words"] else " "
    parts = " ".join(item.split()).split(" ")
    room, unknown = model.input["length"] - 2, model.text.rules["unknown"] or 0
    rows: list[list[int]] = [[]]
    firsts: list[list[int]] = [[]]
    for tokens in model.text.encode([between * (place > 0) + word for place, word in enumerate(parts)]):
        tokens = (tokens or [unknown])[:room]
        if len(rows[-1]) + len(tokens) > room:
            rows.append([])
            firsts.append([])
        firsts[-1].append(len(rows[-1]) + 1)
        rows[-1].extend(tokens)
    return [_marked(model, row) for row in rows], firsts


def sentence(model: Any, item: str) -> tuple[list[dict[str, Any]], Any]:
    """A text between its marks, cut where it is too long."""
    (ids,) = model.text.encode([item])
    return [{"source": [model.text.rules["start"], *ids[: model.input["length"] - 2], model.text.rules["end"]]}], None


def source(model: Any, item: str) -> tuple[list[dict[str, Any]], Any]:
    """A text to be translated, with the mark of its end. Raises UserError for one that is empty or too long."""
    if not item.strip():
        raise UserError("an input is empty: give a text to translate")
    (ids,) = model.text.encode([item])
    if len(ids) >= model.input["length"]:
        raise UserError(
            f"an input has {len(ids) + 1} tokens, and at most {model.input['length']} are read: split the text"
        )
    return [{"source": [*ids, model.text.rules["end"]]}], None


def prompt(model: Any, item: str) -> tuple[list[dict[str, Any]], Any]:
    """The beginning of a text. Raises UserError for one that leaves no room for its continuation."""
    (ids,) = model.text.encode([item])
    length = model.input["length"]
    if not 0 < len(ids) < length:
        raise UserError(f"an input has {len(ids)} tokens: give between 1 and {length - 1}")
    return [{"tokens": ids + [0] * (length - len(ids)), "prompt_length": len(ids)}], len(item)


INPUTS = {"text": text, "words": words, "sentence": sentence, "source": source, "prompt": prompt}


def label(model: Any, rows: list[dict[str, Any]], kept: Any) -> dict[str, Any]:
    """The most probable class."""
    values = rows[0]["answers"]
    name = model.answer["names"][int(np.argmax(values))]
    return {"text": name, "label": name, "probability": float(values.max())}


def labels(model: Any, rows: list[dict[str, Any]], kept: Any) -> dict[str, Any]:
    """All classes whose probability is above the threshold."""
    chances = {name: float(value) for name, value in zip(model.answer["names"], rows[0]["answers"], strict=True)}
    found = [name for name, chance in chances.items() if chance > model.answer["threshold"]]
    return {"text": "|".join(found), "labels": found, "probabilities": chances}


def number(model: Any, rows: list[dict[str, Any]], kept: Any) -> dict[str, Any]:
    """A number."""
    (value,) = rows[0]["answers"]
    return {"text": f"{value:.4g}", "value": float(value)}


def tags(model: Any, rows: list[dict[str, Any]], kept: Any) -> dict[str, Any]:
    """A tag for each word."""
    pairs = zip(rows, kept, strict=True)
    found = [model.answer["names"][int(row["answers"][place])] for row, firsts in pairs for place in firsts]
    return {"text": " ".join(found), "tags": found}


def vector(model: Any, rows: list[dict[str, Any]], kept: Any) -> dict[str, Any]:
    """The numbers themselves."""
    numbers = [float(value) for value in rows[0]["answers"]]
    return {"text": " ".join(f"{value:.6g}" for value in numbers), "vector": numbers}


def written(model: Any, rows: list[dict[str, Any]], kept: Any) -> dict[str, Any]:
    """The text of the tokens behind the mark of its start."""
    return {"text": model.written.decode(rows[0]["answers"][1:])}


def continued(model: Any, rows: list[dict[str, Any]], kept: Any) -> dict[str, Any]:
    """The prompt and its continuation, which ends before the first of the texts to stop at."""
    tokens = rows[0]["answers"]
    found = model.text.decode(tokens[tokens >= 0])
    ends = [end for stop in model.answer["stop"] if stop and (end := found.find(stop, kept)) >= 0]
    return {"text": found[: min(ends, default=len(found))]}


ANSWERS = {"text_label": label, "labels": labels, "number": number, "tags": tags, "vector": vector}
ANSWERS |= {"written": written, "continued": continued}
