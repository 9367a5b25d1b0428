"""A folder of a published model: its weights, its `config.json`, and the model of ours that they make."""

import collections
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.config import choose
from research.errors import UserError
from research.files import fits, read_json
from research.models.mae import MAE
from research.models.seq2seq import Seq2Seq
from research.models.text_head import TextHead
from research.models.two_towers import TwoTowers
from research.models.vit import ViT
from research.weights import timm, vit
from research.weights.families import FAMILIES, TIMM
from research.weights.family import LABELS, Family
from research.weights.fields import part_of
from research.weights.files import Arrays, read_arrays
from research.weights.match import Match, match, shapes_of
from research.weights.table import Table

LARGEST_IMAGE, MOST_LABELS = 4096, 2**20
"""Pixels on a side of the images that a model is published for, and classes of one."""


@dataclasses.dataclass(frozen=True)
class Published:
    """config: what its `config.json` says. section: our model's section of a config, and `model` what that builds.

    family: of transformers, None for timm's and the original ViT's. match: of the model's arrays with `arrays`.
    """

    folder: Path
    config: Mapping[str, Any]
    family: Family | None
    section: Mapping[str, Any]
    model: nn.Module
    arrays: Arrays
    table: Table
    match: Match

    @property
    def image_size(self) -> int:
        """Pixels on a side of the images it is published for."""
        return image_size(self.config)

    @property
    def class_names(self) -> list[str]:
        """The names of its classes by their numbers; the numbers where timm gives no names."""
        if self.family:
            return distinct(labels_of(self.config))
        names, count = self.config.get("label_names"), self.model.num_classes
        if isinstance(names, list) and len(names) == count and type(self.model) in TIMM:
            return [str(name) for name in names]
        return [str(number) for number in range(count)]


def read_published(path: Path) -> Published:
    """The model of a folder or of an original ViT's .npz file, whether or not all of its arrays fit.

    Raises UserError for a folder without weights or `config.json`, and for a model that is not known here.
    """
    arrays = read_arrays(path)
    if path.suffix == ".npz":
        return _original(path, arrays)
    if not (path / "config.json").exists():
        raise UserError(f"{path} has no config.json, which says what model it is: give the folder as it was published")
    config = read_json(path / "config.json")
    if "architecture" in config:
        name, fields = timm.fields_of(config)
        model = built(name, fields)
        (table,) = TIMM[type(model)](model)
        return _published(path, config, None, name, fields, model, table, arrays)
    family, variants = family_of(config)
    base = family.fields.ours(config)
    candidates = []
    for variant in variants:
        fields = base | _with_labels(variant, config)
        model = built(family.model, fields)
        if family.cls is TextHead:
            model = TextHead(model, len(labels_of(config)), family.pool)
        (table,) = family.tables(model)
        candidates.append(_published(path, config, family, family.model, fields, model, table, arrays))
        if candidates[-1].match.fits:
            return candidates[-1]
    return candidates[0]


def family_of(config: Mapping[str, Any]) -> tuple[Family, Sequence[Mapping[str, Any]]]:
    """The family of a `config.json` of transformers, and the fields that its architecture may stand for.

    Raises UserError, with the three known ones of the nearest names, for another one.
    """
    kinds = config.get("architectures")
    kind = kinds[0] if fits(kinds, list[str]) and len(kinds) == 1 else None
    for family in FAMILIES:
        if config.get("model_type") == family.name and kind in family.architectures:
            return family, family.architectures[kind]
    there = str(kind or config.get("model_type"))[:60]
    known = [name for family in FAMILIES for name in family.architectures]
    near = ", ".join(difflib.get_close_matches(there, known, n=3, cutoff=0))
    raise UserError(
        f"{there} is not a model that is known here: use one that docs/weights.md lists, such as {near}, or timm's "
        f"{timm.examples()[0]}, ..."
    )


def _with_labels(variant: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: len(labels_of(config)) if value is LABELS else value for name, value in variant.items()}


def labels_of(config: Mapping[str, Any]) -> list[str]:
    """The names of the classes by their numbers. Raises UserError where they are not counted from 0."""
    count = config.get("num_labels", 2)
    if not isinstance(count, int) or not 0 <= count < MOST_LABELS:
        raise UserError(f"config.json has num_labels {str(count)[:20]}: restore it as it was published")
    labels = config.get("id2label", {str(number): f"LABEL_{number}" for number in range(count)})
    numbers = {str(number) for number in range(len(labels))} if isinstance(labels, dict) else set()
    if not fits(labels, dict[str, str]) or {*labels} != numbers:
        raise UserError(
            "config.json has an id2label that is not texts, or not counted from 0: restore it as it was published"
        )
    return [labels[str(number)] for number in range(len(labels))]


def distinct(names: Sequence[str]) -> list[str]:
    """Names of classes of which several are the same, such as COCO's "N/A", each of these with its number."""
    counts = collections.Counter(names)
    return [name if counts[name] == 1 else f"{name} {number}" for number, name in enumerate(names)]


def image_size(config: Mapping[str, Any]) -> int:
    """Pixels on a side, of transformers' or timm's config. Raises UserError for what is not such a number."""
    part = config.get("pretrained_cfg", part_of(config, "vision_config") or config)
    sizes = part.get("input_size", [3, part.get("image_size", 224)]) if isinstance(part, dict) else None
    size = sizes[-1] if isinstance(sizes, list) and sizes else None
    if not isinstance(size, int) or not 0 < size <= LARGEST_IMAGE:
        raise UserError(
            f"config.json has images of {str(size)[:20]} pixels: use 1 to {LARGEST_IMAGE}, for square images"
        )
    return size


def model_inputs(model: nn.Module, size: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Abstract inputs of a model, for its shapes: images of `size`, tokens, both, or those of two texts."""
    if isinstance(model, Seq2Seq):
        tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
        return tokens, tokens, jax.ShapeDtypeStruct((1, 2), jnp.bool_)
    if isinstance(model, TextHead):
        return jax.ShapeDtypeStruct((1, 2), jnp.int32), jax.ShapeDtypeStruct((1, 2), jnp.bool_)
    if hasattr(model, "vocab_size"):
        return (jax.ShapeDtypeStruct((1, 2), jnp.int32),)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    if isinstance(model, TwoTowers):
        tokens, valid = (jax.ShapeDtypeStruct((1, 2), dtype) for dtype in (jnp.int32, jnp.bool_))
        return images, tokens, valid
    if isinstance(model, MAE):
        return images, jax.ShapeDtypeStruct((1, (size // model.patch_size) ** 2), jnp.int32)
    return (images,)


def built(name: str, fields: Mapping[str, Any]) -> nn.Module:
    """Our model of a name and its fields, which are checked as a config's are. Raises UserError."""
    classes = {family.model: family.cls for family in FAMILIES if family.cls is not TextHead}
    classes |= {cls.__name__.lower(): cls for cls in TIMM}
    return choose(classes, {**fields, "name": name}, "config.json")


def _published(
    path: Path,
    config: Mapping[str, Any],
    family: Family | None,
    name: str,
    fields: Mapping[str, Any],
    model: nn.Module,
    table: Table,
    arrays: Arrays,
) -> Published:
    size = image_size(config)
    _check_patches(model.image if isinstance(model, TwoTowers) else model, size)
    found = match(table, shapes_of(model, model_inputs(model, size)), arrays)
    made = family.made(model, size) if family else {}
    there = {found.names[name]: array for name, array in made.items() if name in found.names}
    unlike = [name for name, array in there.items() if not _close(np.asarray(arrays[name]), array)]
    found = dataclasses.replace(found, unlike=unlike)
    return Published(path, config, family, {"name": name, **fields}, model, arrays, table, found)


def _check_patches(model: nn.Module, size: int) -> None:
    """Raises UserError for images with pixels beside the last whole patch, which other libraries leave out."""
    if isinstance(model, ViT | MAE) and size % model.patch_size:
        raise UserError(
            f"config.json has images of {size} pixels in patches of {model.patch_size}: only whole patches are known "
            "here"
        )


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether an array is another one, but for the last digits of its own dtype."""
    off = max(1e-5, float(jnp.finfo(found.dtype).eps))
    return found.shape == expected.shape and np.allclose(found.astype(np.float32), expected, rtol=0, atol=off)


def _original(path: Path, arrays: Arrays) -> Published:
    """An original ViT, whose fields are in the shapes of its arrays."""
    shapes = arrays.shapes
    try:
        patch, _, _, width = shapes["embedding/kernel"]
        heads = shapes["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"][1]
        mlp_width = shapes["Transformer/encoderblock_0/MlpBlock_3/Dense_0/bias"][0]
        tokens = shapes["Transformer/posembed_input/pos_embedding"][1] - 1
        classes = shapes.get("head/bias", (0,))[0]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{path} is not an original Vision Transformer ({error} is not there): give one") from error
    layers = sum(name.endswith("MlpBlock_3/Dense_0/bias") for name in shapes)
    fields = {"num_classes": classes, "patch_size": patch, "width": width, "num_layers": layers, "num_heads": heads}
    fields |= {"mlp_width": mlp_width}
    config = {"image_size": round(max(tokens, 0) ** 0.5) * patch}
    return _published(path, config, None, "vit", fields, built("vit", fields), vit.ORIGINAL, arrays)
