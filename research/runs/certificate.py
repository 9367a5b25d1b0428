"""The certificate of an imported model: what it was made of, and what it answers; and its verification."""

import contextlib
import hashlib
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from research.errors import UserError
from research.files import read_json, write_json
from research.layers.scan import unstacked
from research.parallel.sharding import by_path
from research.runs.experiment import Experiment, open_run
from research.training.checkpoints import Checkpoints
from research.weights.files import read_arrays
from research.weights.match import read, shapes_of
from research.weights.published import Published, read_published

FILE, ANSWERS = "certificate.json", "certificate.safetensors"
TOLERANCE = 1e-4
"""Of answers that another machine, or a reference library, gave in float32."""
EXAMPLES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
INPUTS = {
    "input_ids": ("tokens", np.int32),
    "attention_mask": ("valid", bool),
    "token_type_ids": ("segments", np.int32),
    "pixel_values": ("images", np.float32),
    "decoder_input_ids": ("target", np.int32),
}
"""A reference's inputs by transformers' names: what our models call them, and their type."""
PAIRS = {"input_ids": "source", "attention_mask": "source_valid", "decoder_input_ids": "target"}
"""What our models call them that write a text from another."""


def certify(experiment: Experiment, published: Published, reference: Path | None = None) -> dict[str, Any]:
    """Writes the certificate of a run that was just imported.

    reference: a .safetensors file with inputs (`input_ids` and `attention_mask`, `pixel_values`, or both) and what the
    reference library answered (`logits`, `logits_per_image`, `last_hidden_state`, or `start_logits` and `end_logits`);
    the largest difference from it is part of the certificate. Raises UserError where that is more than `TOLERANCE`.
    """
    inputs = experiment.task.model_inputs(question(experiment))
    variables = _variables(experiment)
    answers = _answers(experiment, variables, *inputs)
    certificate = {
        "source": {"folder": str(published.folder.resolve()), "sha256": digests(published)},
        "table": published.table.version,
        "parameters": sum(math.prod(shape) for entry in published.match.entries for shape in entry.shapes),
        "used": published.match.used,
        "dropped": dict(published.match.dropped),
        "inputs": {f"input_{number}": list(array.shape) for number, array in enumerate(inputs)},
        "reference": _compared(experiment, variables, reference) if reference else None,
    }
    arrays = {f"input_{number}": np.asarray(array) for number, array in enumerate(inputs)}
    save_file({**arrays, "answers": answers}, experiment.folder / ANSWERS)
    write_json(experiment.folder / FILE, certificate)
    return certificate


def verify(folder: Path, source: Path | None = None) -> list[str]:
    """Recomputes the certificate of an imported run; sentences about what was found to be right.

    source: where the published files are, if no longer where they were. Raises UserError for the first thing that
    differs.
    """
    if not (folder / FILE).exists():
        raise UserError(f"{folder} has no certificate: give the folder of a model that experiments.weights imported")
    certificate, stored = read_json(folder / FILE), read_arrays(folder / ANSWERS)
    experiment = open_run(folder)
    inputs = [stored[name] for name in sorted(stored) if name.startswith("input_")]
    variables = _variables(experiment)
    found = _largest(_answers(experiment, variables, *inputs), np.asarray(stored["answers"]))
    if not found <= TOLERANCE:
        raise UserError(f"{folder} answers otherwise than when it was imported, by {found:.3g}: import it again")
    said = [f"largest difference of answers: {found:.3g}"]
    published = read_published(source or Path(certificate["source"]["folder"]))
    if digests(published) != certificate["source"]["sha256"]:
        raise UserError(f"{published.folder} is not what {folder} was imported from: its sha256 differ")
    said.append(f"sha256 of the source: {len(certificate['source']['sha256'])} files are the same")
    if published.table.version != certificate["table"]:
        raise UserError(f"the table of the weights has changed since {folder} was imported: import it again")
    said.append(f"table: version {published.table.version}")
    wanted = shapes_of(experiment.model, experiment.task.model_inputs(experiment.sample_batch))
    here = unstacked({path: leaf for tree in variables.values() for path, leaf in by_path(tree).items()}, wanted)
    for path, array in read(published.match, published.arrays):
        if not np.array_equal(np.asarray(here[path]), array):
            raise UserError(f"{path} in {folder} is not what the source holds: the run was trained, or changed")
    return [*said, f"parameters: {len(here)} arrays are the source's, bit for bit"]


def digests(published: Published) -> dict[str, str]:
    """sha256 of the weight files and the config, by their names."""
    files = [*published.arrays.paths, published.folder / "config.json"]
    found = {}
    for path in (path for path in files if path.is_file()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def question(experiment: Experiment) -> Mapping[str, Any]:
    """A batch of fixed inputs: three sentences or their first words, or one image of noise with the seed 0, or
    both."""
    task: Any = experiment.task
    if not hasattr(task, "image_shape"):
        words = [text.split()[0] for text in EXAMPLES]  # where a model takes few tokens
        missing = [f"{word} [MASK]" for word in words]  # or where it finds what is missing, or an answer in a text
        for texts in (EXAMPLES, words, missing, [f"{word}\t{word}" for word in words]):
            with contextlib.suppress(UserError):
                return task.questions([task.example(text) for text in texts]).first(len(texts))
        raise UserError("the model has no room for a single word: give one with more positions")
    size = task.size if hasattr(task, "size") else task.photo.size
    pixels = jax.random.randint(jax.random.key(0), (size, size, 3), 0, 256).astype("uint8")
    example = task.example(jax.device_get(pixels))
    if task.pad is None:
        return task.questions([example]).first()
    return task.questions([{**example, "caption": text} for text in EXAMPLES]).first(len(EXAMPLES))


def _variables(experiment: Experiment) -> dict[str, Any]:
    with Checkpoints(experiment.folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
        return experiment.variables(checkpoints)[0]


def _answers(experiment: Experiment, variables: Mapping[str, Any], *inputs: Any, **named: Any) -> np.ndarray:
    """What the model gives for arrays: logits, or states where it has no head."""
    model: Any = experiment.model
    arrays = map(jnp.asarray, inputs), {name: jnp.asarray(array) for name, array in named.items()}
    return np.asarray(jax.jit(model.apply)(variables, *arrays[0], **arrays[1]), np.float32)


def _compared(experiment: Experiment, variables: Mapping[str, Any], reference: Path) -> dict[str, Any]:
    arrays = read_arrays(reference)
    inputs = {ours: np.asarray(arrays[name]).astype(dtype) for name, (ours, dtype) in INPUTS.items() if name in arrays}
    if "decoder_input_ids" in arrays:
        inputs = {
            ours: np.asarray(arrays[name]).astype(INPUTS[name][1]) for name, ours in PAIRS.items() if name in arrays
        }
    answers = ("logits", "logits_per_image", "last_hidden_state")
    expected = next((arrays[name] for name in answers if name in arrays), None)
    if "start_logits" in arrays and "end_logits" in arrays:
        expected = np.stack([arrays[f"{end}_logits"] for end in ("start", "end")], axis=-1)
    if not inputs or expected is None:
        raise UserError(
            f"{reference} has no inputs ({', '.join(INPUTS)}) or no logits: make it as docs/weights.md says"
        )
    if "images" in inputs:  # [batch, channels, height, width]
        inputs["images"] = inputs["images"].transpose(0, 2, 3, 1)
    if "tokens" in inputs and hasattr(experiment.task, "valid"):
        inputs.setdefault("valid", experiment.task.valid(inputs["tokens"]))
    arguments = inspect.signature(type(experiment.model).__call__).parameters.values()
    # Of the same names, arguments by keyword alone mean something else.
    taken = [argument.name for argument in arguments if argument.kind is argument.POSITIONAL_OR_KEYWORD]
    found = _answers(experiment, variables, **{name: inputs[name] for name in taken if name in inputs})
    if expected.ndim == 4:  # [batch, classes, height, width], at a quarter of the images' size
        expected = jax.image.resize(np.asarray(expected).transpose(0, 2, 3, 1), found.shape, "bilinear")
    expected, valid = np.asarray(expected), np.ones(found.shape[:1], bool)
    if found.ndim == 3:  # of each token
        valid = inputs.get("valid", valid)
    if not (largest := _largest(found[valid], expected[valid])) <= TOLERANCE:
        raise UserError(f"the model's answers differ from {reference} by {largest:.3g}: the conversion is wrong")
    return {"sha256": hashlib.sha256(reference.read_bytes()).hexdigest(), "largest_difference": largest}


def _largest(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        raise UserError(f"answers are {found.shape} here and {expected.shape} there: they are not of the same model")
    return float(np.abs(found.astype(np.float64) - expected).max())
