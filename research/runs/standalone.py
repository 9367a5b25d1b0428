"""A run's model as a folder that runs without this project: programs, weights, what is around them, and a self-test."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import re
import string
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from PIL import Image
from safetensors.numpy import save

from research.errors import UserError
from research.files import write_json, write_text
from research.parallel.sharding import by_path
from research.runs.certificate import EXAMPLES
from research.runs.experiment import Experiment
from research.runs.onnx_graph import Constants, onnx_model
from research.runs.predictor import Predictor
from research.runs.tables import TASKS
from research.tasks.task import Task

ROOT = Path(__file__).resolve().parents[1]
PARTS = "runs/standing_alone/run.py", "errors.py"
TEXTS, PICTURES = ("runs/standing_alone/texts.py",), ("runs/standing_alone/pictures.py", "data/image_files.py")
"""Files of this project that are brought along: their imports lead to the files beside them."""
WEIGHTS, CONSTANTS, TEST = "weights.safetensors", "weights.bin", "selftest"
PLATFORMS = (("cpu", "cuda", "tpu"), ("cpu", "cuda"), ("cpu",))
"""What one program may be for, tried in this order."""
BATCHES = (1, 8)
"""Sizes of programs that do not take any."""
MOST_STORED = 2**20
"""Numbers of a raw answer that the self-test keeps; of larger ones, such as those of all pixels, the answer is kept."""
SHORTEST = 8
"""Length of the first bucket, as answers of a run have it (`few_shapes`)."""
TOLERANCES = {"jax": 1e-5, "onnx": 1e-4}
"""Of the self-test, by the form of the programs."""


def export_standalone(experiment: Experiment, folder: Path, form: str = "jax") -> list[str]:
    """Writes a run's evaluated model with its task's two ends into a new folder; sentences about what was written.

    form: of its programs, "jax" or "onnx". Raises UserError for a task or a model that cannot, and where the folder
    holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: give a new folder for the exported model")
    task = experiment.task
    if type(task).standalone is Task.standalone:
        able = ", ".join(name for name, kind in TASKS.items() if kind.standalone is not Task.standalone)
        raise UserError(f"a run of {experiment.config.task.name} cannot stand alone: export one of {able}")
    package = {"jax": "flatbuffers", "onnx": "onnx"}[form]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"--format={form} needs the package {package}: install the extra export (uv sync --frozen --extra export)"
        )
    predictor = Predictor.of(experiment)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        written = Path(scratch) / "exported"
        written.mkdir()
        about = _write(predictor, written, form)
        _describe(experiment, predictor.step, about, written)
        written.rename(folder)  # whole or not at all
    programs = about["programs"]
    shapes = "any number of inputs" if programs[0]["batch"] is None else f"{' or '.join(map(str, BATCHES))} inputs"
    return [
        f"programs for {', '.join(about['platforms'])}, of {shapes} at once: {len(programs)}",
        f"try it: python {folder}/run.py --check",
    ]


def _write(predictor: Predictor, folder: Path, form: str) -> dict[str, Any]:
    """All but the descriptions: programs, weights, vocabularies, the self-test. Gives what `export.json` says."""
    task: Any = predictor.task
    about: dict[str, Any] = task.standalone()
    for name, attribute in (("tokenizer", "vocabulary"), ("target_tokenizer", "target_vocabulary")):
        if name in about:
            getattr(task, attribute).save(folder / f"{name}.json")
            about[name] = {**about[name], "file": f"{name}.json"}
    names = about["input"]["arrays"]
    questions = list(_questions(task, about["input"], folder))
    stored: dict[str, np.ndarray] = {}
    answers, batch = [], {}
    for number, (_, example) in enumerate(questions):
        batch = _batch(task, example, about["input"])
        about["input"]["arrays"] = {name: batch[name].dtype.name for name in names}
        raw = jax.device_get(jax.jit(_raw(predictor))(predictor.variables, {name: batch[name] for name in names}))
        stored |= {f"{number}/input/{name}": batch[name] for name in names}
        small = {name: array for name, array in raw.items() if array.size <= MOST_STORED}
        stored |= {f"{number}/raw/{name}": np.ascontiguousarray(array) for name, array in small.items()}
        answers += predictor.answers([example])
    (folder / f"{TEST}.safetensors").write_bytes(save(stored))
    write_json(folder / f"{TEST}.json", {"questions": [item for item, _ in questions], "answers": answers})
    write = {"jax": _write_programs, "onnx": _write_graphs}[form]
    about |= write(predictor, about["input"], batch, folder)
    return {**about, "tolerance": TOLERANCES[form], "rows": predictor.evaluator.batch_size}


def _raw(predictor: Predictor) -> Any:
    """The raw answers by name, as a function of variables and a batch."""

    def raw(variables: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        found = predictor.evaluator.inference.predict(variables, batch)
        named = dict(found) if isinstance(found, Mapping) else {"answers": found}
        return {name: one.astype(np.float32) if one.dtype == jax.numpy.bfloat16 else one for name, one in named.items()}

    return raw


def _buckets(given: Mapping[str, Any]) -> list[int | None]:
    """The lengths that rows are padded to: powers of two up to the greatest that there is."""
    if not given["fills"]:
        return [None]
    longest = given["length"]
    powers = [SHORTEST << number for number in range(longest.bit_length())]
    return [*(power for power in powers if power < longest), longest]


def _batch(task: Task, example: Any, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All rows of an example, as the run's own answers have them."""
    rows = task.questions([example])
    lengths, indices = rows.lengths(), np.arange(len(rows))
    if lengths is None or not given["fills"]:
        return rows.batch(indices, np.zeros_like(indices), None)
    length = min(bucket for bucket in _buckets(given) if bucket is not None and bucket >= lengths.max())
    return rows.batch(indices, np.zeros_like(indices), length)


def _questions(task: Any, given: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Any]]:
    """What the self-test asks, and the examples that this makes: images, which are written into the folder, or texts.

    Raises UserError where the run takes none of the texts.
    """
    if task.takes_images:
        height, width, _ = given["shape"]  # None of images of any size
        side = given.get("size") or (given["photo"] or {}).get("size") or 0
        height, width = height or side, width or side
        for number, size in enumerate([(height, width), (height + height // 3 + 1, 2 * width)], 1):
            coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8)
            name = f"{TEST}_{number}.png"
            Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(folder / name)
            yield name, task.example(folder / name)
        return
    vocabulary, taken = task.vocabulary, 0
    known = [token for token in range(vocabulary.vocab_size) if token not in vocabulary.special]
    own = [vocabulary.decode(known[:: max(len(known) // count, 1)][:count]) for count in (4, given["length"] // 2)]
    for text in (*EXAMPLES, *own):
        try:
            example = task.example(text)
            task.questions([example])
        except UserError:  # such as letters that training had not seen
            continue
        taken += 1
        yield text, example
    if not taken:
        raise UserError(f"the run takes none of the texts to test it with, such as {own[0]!r}: train on longer texts")


def _write_programs(
    predictor: Predictor, given: Mapping[str, Any], batch: Mapping[str, np.ndarray], folder: Path
) -> dict[str, Any]:
    """Writes the weights, and a program for each bucket, of any batch size where that can be; what `export.json` says
    of them."""
    arrays = {path: np.asarray(leaf) for path, leaf in by_path(jax.device_get(dict(predictor.variables))).items()}
    (folder / WEIGHTS).write_bytes(save({path: np.ascontiguousarray(array) for path, array in arrays.items()}))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dict(predictor.variables))
    leaves, tree = jax.tree.flatten(shapes)
    paths, raw, buckets = list(by_path(shapes)), _raw(predictor), _buckets(given)
    any_size = export.symbolic_shape("batch")

    @jax.jit
    def program(weights: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
        return raw(jax.tree.unflatten(tree, [weights[path] for path in paths]), batch)

    @functools.cache
    def exported(length: int | None, size: int | None) -> export.Exported | None:
        rows = _rows(given, batch, length, any_size[0] if size is None else size)
        return _exported(program, dict(zip(paths, leaves, strict=True)), rows, required=size is not None)

    sizes = BATCHES if exported(buckets[0], None) is None else (None,)
    programs, platforms = [], set(PLATFORMS[0])
    for length in buckets:
        for size in sizes:
            found = exported(length, size)
            assert found is not None
            file = f"{_name(length, size)}.bin"
            (folder / file).write_bytes(found.serialize())
            programs.append({"file": file, "length": length, "batch": size})
            platforms &= {*found.platforms}
    return {"programs": programs, "platforms": sorted(platforms)}


def _write_graphs(
    predictor: Predictor, given: Mapping[str, Any], batch: Mapping[str, np.ndarray], folder: Path
) -> dict[str, Any]:
    """The same as ONNX, for the batch sizes of BATCHES."""
    constants, raw, variables = Constants(folder / CONSTANTS), _raw(predictor), predictor.variables
    programs = []
    for length in _buckets(given):
        for size in BATCHES:
            rows = _rows(given, batch, length, size)
            file = f"{_name(length, size)}.onnx"
            (folder / file).write_bytes(onnx_model(functools.partial(raw, variables), rows, constants))
            programs.append({"file": file, "length": length, "batch": size})
    return {"programs": programs, "platforms": ["onnxruntime"]}


def _rows(given: Mapping[str, Any], batch: Mapping[str, np.ndarray], length: int | None, size: Any) -> dict[str, Any]:
    """The shapes of a batch of a bucket."""
    rests = {name: (length,) if name in given["fills"] else batch[name].shape[1:] for name in given["arrays"]}
    return {name: jax.ShapeDtypeStruct((size, *rest), batch[name].dtype) for name, rest in rests.items()}


def _name(length: int | None, size: int | None) -> str:
    return "_".join(["program", *(str(number) for number in (length, size) if number is not None)])


def _exported(program: Any, *shapes: Any, required: bool) -> export.Exported | None:
    """The program for as many platforms as can be in one; None where there is none and it is not required."""
    for platforms in PLATFORMS:
        try:
            return export.export(program, platforms=platforms)(*shapes)
        except Exception:  # of many kinds: a platform lacks an operation, or a size has to be known
            if required and platforms == PLATFORMS[-1]:
                raise
    return None


def _describe(experiment: Experiment, step: int, about: dict[str, Any], folder: Path) -> None:
    """Writes the programs of this project that the folder needs, `README.md` and, last, `export.json`."""
    images, texts = "shape" in about["input"], "tokenizer" in about
    for part in (*PARTS, *(TEXTS if texts else ()), *(PICTURES if images else ())):
        write_text(folder / Path(part).name, beside((ROOT / part).read_text(encoding="utf-8")))
    runtime = ["onnxruntime"] if about["platforms"] == ["onnxruntime"] else ["jax", "flatbuffers"]
    packages = [*runtime, "numpy", *["tokenizers"] * texts, *["pillow"] * images]
    found = [name for name in packages if importlib.util.find_spec({"pillow": "PIL"}.get(name, name))]
    versions = {name: importlib.metadata.version(name) for name in found}
    options = {name: getattr(experiment.task, name) for name in experiment.task.options()}
    about |= {"run": experiment.folder.resolve().name, "step": step, "versions": versions, "options": options}
    about["task"], about["model"] = experiment.config.task.name, experiment.config.model.name
    example = f"{TEST}_1.png" if images else "'some text'"
    fields = {
        "run": about["run"],
        "step": step,
        "needs": " ".join(f"{one}=={versions[one]}" if one in versions else one for one in packages),
    }
    readme = string.Template((ROOT / PARTS[0]).with_name("README.md").read_text(encoding="utf-8"))
    write_text(folder / "README.md", readme.substitute(fields, example=example, tolerance=about["tolerance"]))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    write_json(folder / "export.json", {**about, "sha256": digests})


def beside(text: str) -> str:
    """A file of this project whose imports of its modules lead to files beside it."""
    return re.sub(r"from research(?:\.\w+)*\.(\w+) import", r"from \1 import", text)
