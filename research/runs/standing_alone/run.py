"""Answers of an exported model: `python run.py "some text" ...`, `python run.py photo.png ...`, or `--check`.

Needs numpy, jax with flatbuffers (or onnxruntime, where the programs end with .onnx), tokenizers for texts and pillow
for images. `export.json` says what this folder holds; each of its files is compared with its checksum before it is
used.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.errors import UserError

HERE = Path(__file__).resolve().parent
TYPES = {"F32": "<f4", "I32": "<i4", "I64": "<i8", "U8": "u1", "BOOL": "?"}
"""Those of .safetensors files, as NumPy names them."""


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file by name: 8 bytes with the size of a JSON header, the header, the numbers."""
    content = memoryview(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:start]))
    header.pop("__metadata__", None)
    found = {}
    for name, said in header.items():
        first, last = said["data_offsets"]
        found[name] = np.frombuffer(content[start + first : start + last], TYPES[said["dtype"]]).reshape(said["shape"])
    return found


class Model:
    """The programs and weights of this folder, and what they need of a person's input.

    Raises UserError where a file is not the one that was exported.
    """

    def __init__(self) -> None:
        self.about = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
        for name, digest in self.about["sha256"].items():
            if not (HERE / name).is_file() or hashlib.sha256((HERE / name).read_bytes()).hexdigest() != digest:
                raise UserError(f"{name} is not the file that was exported: export the model again")
        self.input, self.answer, self.programs = self.about["input"], self.about["answer"], self.about["programs"]
        self.weights: Any = (
            arrays_of(HERE / "weights.safetensors") if "weights.safetensors" in self.about["sha256"] else {}
        )
        self._opened: dict[str, Any] = {}
        inputs: dict[str, Any] = {}
        answers: dict[str, Any] = {}
        if "tokenizer" in self.about:
            from research.runs.standing_alone.texts import ANSWERS, INPUTS, Text

            inputs, answers = inputs | INPUTS, answers | ANSWERS
            self.text = Text(HERE, self.about["tokenizer"])
            self.written = Text(HERE, self.about.get("target_tokenizer", self.about["tokenizer"]))
        if "shape" in self.input:
            from research.runs.standing_alone.pictures import ANSWERS, INPUTS

            inputs, answers = inputs | INPUTS, answers | ANSWERS
        self._rows, self._answer = inputs[self.input["kind"]], answers[self.answer["kind"]]

    def answers(self, items: Sequence[str]) -> list[dict[str, Any]]:
        """The answer to each input, in their order."""
        rows, places = [], []
        for item in items:
            own, kept = self._rows(self, item)
            places.append((len(rows), len(rows) + len(own), kept))
            rows += own
        raw: list[Any] = []
        most = self.about["rows"]  # of a batch, as in the run: what is drawn at random depends on a row's place
        for start in range(0, len(rows), most):
            raw += self.raw(rows[start : start + most])
        return [self._answer(self, raw[first:last], kept) for first, last, kept in places]

    def rows(self, item: str) -> list[dict[str, Any]]:
        """What the model reads of an input."""
        return self._rows(self, item)[0]

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, np.ndarray], int | None]:
        """Rows as arrays, padded to the least length that there is a program for, and this length if there is one."""
        fills: dict[str, int] = self.input["fills"]
        length = None
        if fills:
            longest = max(len(row[name]) for row in rows for name in fills)
            length = min(one["length"] for one in self.programs if one["length"] >= longest)
        batch = {}
        for name, dtype in self.input["arrays"].items():
            column = [np.asarray(row[name], dtype) for row in rows]
            if name in fills:
                column = [np.pad(one, (0, (length or 0) - len(one)), constant_values=fills[name]) for one in column]
            batch[name] = np.stack(column)
        return batch, length

    def raw(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, np.ndarray]]:
        """What the model gives for each row."""
        batch, length = self.batch(rows)
        fitting = {one["batch"]: one["file"] for one in self.programs if one["length"] == length}
        size = 1 if len(rows) == 1 else max(8, 1 << (len(rows) - 1).bit_length())
        if None not in fitting:  # programs of fixed sizes: the least that holds all rows, or several batches
            size = min((one for one in fitting if one >= len(rows)), default=max(fitting))
        if size < len(rows):
            return self.raw(rows[:size]) + self.raw(rows[size:])
        file = fitting.get(size, fitting.get(None))
        padded = {name: np.concatenate([one, one[:1].repeat(size - len(rows), axis=0)]) for name, one in batch.items()}
        given = {name: np.asarray(one) for name, one in self._call(file, padded).items()}
        return [{name: one[row] for name, one in given.items()} for row in range(len(rows))]

    def _call(self, file: str, batch: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        if file.endswith(".onnx"):
            return self._call_onnx(file, batch)
        import jax
        from jax import export

        if file not in self._opened:
            program = export.deserialize(bytearray((HERE / file).read_bytes()))
            if (here := {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())) not in program.platforms:
                raise UserError(f"{file} runs on {', '.join(program.platforms)}, not on {here}: set JAX_PLATFORMS=cpu")
            self._opened[file] = jax.jit(program.call)
            self.weights = jax.device_put(self.weights)
        return self._opened[file](self.weights, dict(batch))

    def _call_onnx(self, file: str, batch: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        import onnxruntime  # pyrefly: ignore[missing-import]

        if file not in self._opened:
            self._opened[file] = onnxruntime.InferenceSession(str(HERE / file), providers=["CPUExecutionProvider"])
        names = [one.name.removeprefix("out_") for one in self._opened[file].get_outputs()]
        return dict(zip(names, self._opened[file].run(None, dict(batch)), strict=True))


def check(model: Model) -> None:
    """Compares what becomes of the stored questions with what became of them when the model was exported.

    Raises UserError for the first thing that differs.
    """
    stored, test = arrays_of(HERE / "selftest.safetensors"), json.loads((HERE / "selftest.json").read_text("utf-8"))
    for number, (question, answer) in enumerate(zip(test["questions"], test["answers"], strict=True)):
        item = str(HERE / question) if "shape" in model.input else question
        rows = model.rows(item)
        found: dict[str, Any] = {f"input/{name}": one for name, one in model.batch(rows)[0].items()}
        raw = model.raw(rows)
        found |= {f"raw/{name}": np.stack([row[name] for row in raw]) for name in raw[0]}
        for name in found.keys() & {one.partition("/")[2] for one in stored if one.startswith(f"{number}/")}:
            what, before = f"{name} of question {number + 1}", stored[f"{number}/{name}"]
            apart(what, found[name], before, model.about["tolerance"])
        compare(f"the answer to question {number + 1}", model.answers([item])[0], answer, model.about["tolerance"])


def apart(what: str, found: np.ndarray, stored: np.ndarray, tolerance: float) -> None:
    """Raises UserError for arrays that differ by more than the tolerance, of numbers above 1 times their size."""
    if found.shape != stored.shape:
        raise UserError(f"{what} is {list(found.shape)} and was {list(stored.shape)}: use the versions of export.json")
    if found.dtype.kind != "f":
        tolerance = 0
    most = np.abs(found.astype(float) - stored) / np.maximum(np.abs(stored), 1)
    if not (most <= tolerance).all():
        raise UserError(f"{what} differs by {most.max():.2g}, above {tolerance}: use the versions of export.json")


def compare(what: str, found: Any, stored: Any, tolerance: float) -> None:
    """The same for answers, whose texts have to be equal."""
    if isinstance(stored, dict) and isinstance(found, dict) and found.keys() == stored.keys():
        written_out = {"text"} if stored.keys() & {"vector", "value"} else set()  # a number's digits, compared as such
        for name in stored.keys() - written_out:
            compare(f"{name} of {what}", found[name], stored[name], tolerance)
    elif isinstance(stored, list) and isinstance(found, list) and len(found) == len(stored):
        for one, other in zip(found, stored, strict=True):
            compare(what, one, other, tolerance)
    elif isinstance(stored, float) and isinstance(found, float):
        apart(what, np.array(found), np.array(stored), tolerance)
    elif found != stored:
        raise UserError(f"{what} is {str(found)[:80]!r} and was {str(stored)[:80]!r}: use the versions of export.json")


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", help="texts or image files")
    parser.add_argument("--json", action="store_true", help="print each answer as a line of JSON, with all it has")
    parser.add_argument("--check", action="store_true", help="answer the stored questions, and compare")
    arguments = parser.parse_args()
    try:
        if not arguments.check and not arguments.inputs:
            raise UserError("there is nothing to answer: give texts or image files")
        model = Model()
        if arguments.check:
            check(model)
            print("the answers are those that the model gave when it was exported")
        for answer in model.answers(arguments.inputs):
            probability = f" ({answer['probability']:.3f})" if "probability" in answer else ""
            plain = f"{answer.get('text', answer.get('label'))}{probability}"
            print(json.dumps(answer, ensure_ascii=False) if arguments.json else plain)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if arguments.check else 2
    except ImportError as error:
        print(f"error: {error.name} is not installed: see README.md beside run.py", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
