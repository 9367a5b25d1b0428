"""What a page reads of a folder: regular files that lie within it, of the shape that they should have.

The folder may be anybody's and half written. What cannot be shown is told in a sentence, and the rest is shown.
"""

import base64
import binascii
import csv
import io
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from research.errors import UserError
from research.files import LARGEST, Unreadable, fits, inside, read_json, read_text
from research.training.loggers import read_lines

MOST_METRICS, MOST_EVALUATIONS = 500, 100
MOST_TRIALS, MOST_COLUMNS = 5_000, 60
"""What is read of a `sweep.csv`."""

MOST_SAMPLES, MOST_WEIGHTS, LONGEST_TEXT = 100, 6_000_000, 10_000
PNG = "data:image/png;base64,"

Values = dict[str, float | str]
"""Numbers by their names; those that JSON lacks are text ("nan")."""


def exists(path: Path, root: Path) -> bool:
    """Whether a file or folder is there and, once its links are followed, lies within `root`."""
    return os.path.lexists(path) and inside(path, root)


def read(path: Path, hint: Any, root: Path, notes: list[str]) -> Any | None:
    """The JSON of a file; None where there is none or it cannot be read, which then is a sentence in `notes`."""
    try:
        return read_json(path, hint) if _is_here(path, root) else None
    except UserError as error:
        notes.append(told(error, path.parent))
        return None


def metrics(path: Path, root: Path, notes: list[str]) -> list[dict[str, float]]:
    """The rows of a `metrics.jsonl`, at most 500 metrics of them; what is missing is told in `notes`."""
    try:
        if not _is_here(path, root):
            return []
        if (size := path.stat().st_size) > LARGEST:
            raise Unreadable(f"{path.name} has {size:,} bytes, and a page reads {LARGEST:,}: draw it with other tools")
        rows, trouble = read_lines(path)
    except (UserError, OSError) as error:  # OSError: it has just been deleted
        notes.append(told(error, path.parent))
        return []
    if trouble:
        notes.append(f"{path.name}: {trouble}")
    names = set().union(*rows) - {"step"}
    if len(names) > MOST_METRICS:
        notes.append(f"{path.name} has {len(names):,} metrics, of which {MOST_METRICS} are shown")
        kept = {"step", *sorted(names)[:MOST_METRICS]}
        rows = [{name: value for name, value in row.items() if name in kept} for row in rows]
    return rows


def results(path: Path, root: Path, notes: list[str]) -> Values:
    """What a run measured at its end, {} before; at most 500 metrics, the rest told in `notes`."""
    values = read(path, Values, root, notes) or {}
    if len(values) > MOST_METRICS:
        notes.append(f"{path.name} has {len(values):,} metrics, of which {MOST_METRICS} are shown")
    return dict(itertools.islice(sorted(values.items()), MOST_METRICS))


def evaluations(folder: Path, root: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """What `evaluate --name` kept: by the name, `changes` and `results`."""
    if not exists(folder, root) or not folder.is_dir():
        return {}
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    if len(paths) > MOST_EVALUATIONS:
        notes.append(f"{folder.name} has {len(paths):,} files, of which {MOST_EVALUATIONS} are shown")
    found = {}
    for path in paths[:MOST_EVALUATIONS]:
        kept = read(path, dict[str, dict[str, Any]], root, notes)
        if kept is not None and fits(kept.get("results"), Values):
            found[path.stem] = kept
    return found


def trials(path: Path, root: Path, notes: list[str]) -> list[dict[str, str]]:
    """The rows of a `sweep.csv` by its head, every cell a text. Raises UserError where it is not a table of trials."""
    if not _is_here(path, root):
        raise Unreadable(f"there is no {path}: give the folder of a sweep")
    rows = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        head = next(rows, [])
        body = list(itertools.islice(rows, MOST_TRIALS + 1))
    except csv.Error as error:
        raise UserError(f"{path} is not a table of trials ({error}): run the sweep again") from error
    if len(body) > MOST_TRIALS or len(head) > MOST_COLUMNS:
        notes.append(f"{path.name} is larger than a page: {MOST_TRIALS:,} trials, {MOST_COLUMNS} columns are shown")
    head = head[:MOST_COLUMNS]
    return [dict(itertools.zip_longest(head, row[: len(head)], fillvalue="")) for row in body[:MOST_TRIALS] if row]


def picture(path: Path, root: Path, notes: list[str]) -> str:
    """A PNG file as a data URI; "" where there is none."""
    try:
        if not _is_here(path, root):
            return ""
        if not path.is_file() or path.stat().st_size > LARGEST // 16:
            raise Unreadable(f"{path.name} is not a picture: draw the sweep again")
        return PNG + base64.b64encode(path.read_bytes()).decode()
    except (UserError, OSError) as error:
        notes.append(told(error, path.parent))
        return ""


def shown(path: Path, root: Path, notes: list[str]) -> dict[str, Any]:
    """What `research.reports.samples` recorded: split, step, samples, attention and memory, each as a page needs it.

    {} where there is none; of samples and attention those that are well-formed, the others told in `notes`.
    """
    stored = read(path, dict[str, Any], root, notes)
    if stored is None:
        return {}
    kinds = {"split": str, "step": int, "samples": list[Any], "attention": list[Any], "memory": dict[str, float]}
    unfit = [name for name, hint in kinds.items() if name in stored and not fits(stored[name], hint)]
    if unfit:
        notes.append(f"{path.name}: {', '.join(unfit)} cannot be shown, for {'they are' if unfit[1:] else 'it is'} of "
                     "another type")  # fmt: skip
    absent: dict[str, Any] = {"split": "", "step": 0}
    stored = absent | {name: stored[name] for name in kinds if name in stored and name not in unfit}
    for name, good in (("samples", _is_sample), ("attention", _is_look)):
        items = stored.get(name, [])[:MOST_SAMPLES]
        stored[name] = [item for item in items if _holds(good, item)]
        if wrong := len(items) - len(stored[name]):
            notes.append(f"{path.name}: {wrong} of {len(items)} {name} cannot be shown, for they are damaged")
    return stored


def told(error: Exception, folder: Path) -> str:
    """What went wrong with a file of a folder, without the folder's own path."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {str(error)[:200]}"
    return text.replace(f"{folder}/", "")


def _is_here(path: Path, root: Path) -> bool:
    """Whether there is something to read; raises Unreadable for what leads out of `root`."""
    if not os.path.lexists(path):
        return False
    if not inside(path, root):
        raise Unreadable(f"{path.name} leads out of {root.name}: it is not read, put the file itself there")
    return True


def _holds(good: Callable[[Any], bool], item: Any) -> bool:
    try:
        return good(item)
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error):
        return False


def _is_sample(sample: Any) -> bool:
    texts = [sample[name] for name in ("source", "prompt", "answer", "reference", "label") if name in sample]
    numbers = [sample[name] for name in ("chrf", "probability") if name in sample]
    if not fits(texts, list[str]) or not fits(numbers, list[float]) or not all(map(_is_finite, numbers)):
        return False
    if "image" in sample and not (isinstance(sample["image"], str) and _is_png(sample["image"])):
        return False
    return bool({"answer", "label"} & set(sample)) and all(len(text) <= LONGEST_TEXT for text in texts)


def _is_look(look: Any) -> bool:
    layers, tokens = look["layers"], look.get("tokens", {})
    special = patches = 0
    if look["kind"] == "image":
        rows, columns = grid = look["grid"]
        special, patches = look["special"], rows * columns
        if not fits([*grid, special], list[int]) or min(rows, columns, special + 1) < 1 or not _is_png(look["image"]):
            return False
    elif look["kind"] != "text" or "tokens" not in look:
        return False
    if not fits(tokens, dict[str, list[str]]):
        return False
    fit = [_joins(layer, tokens, special, patches) for layer in layers]
    return isinstance(look["title"], str) and bool(fit) and all(fit) and all(map(_is_layer, layers))


def _joins(layer: Any, tokens: dict[str, list[str]], special: int, patches: int) -> bool:
    """Whether a layer has as many queries and keys as there are tokens or, with those beside them, patches."""
    sides = layer["rows"], layer["columns"]
    if patches and sides == ("patches", "patches"):
        return min(layer["shape"][1:]) >= special + patches
    counts = [patches if patches and side == "patches" else len(tokens[side]) for side in sides]
    return counts == layer["shape"][1:] and sides[0] != "patches"


def _is_layer(layer: Any) -> bool:
    shape: Sequence[int] = layer["shape"]
    heads, queries, keys = shape
    size = heads * queries * keys
    texts = [layer[name] for name in ("path", "rows", "columns", "weights")]
    if not fits(shape, list[int]) or min(shape) < 1 or size > MOST_WEIGHTS or not fits(texts, list[str]):
        return False
    return len(base64.b64decode(layer["weights"], validate=True)) == size


def _is_png(image: Any) -> bool:
    return image.startswith(PNG) and len(base64.b64decode(image.removeprefix(PNG), validate=True)) > 0


def _is_finite(value: float) -> bool:
    return abs(float(value)) < 1e30
