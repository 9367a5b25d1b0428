"""The layers of a student beside those of its teacher: their hidden states, and the logits of their attention."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from research.analysis.attention import by_layer
from research.errors import UserError
from research.layers.dot_product import attention_logits, both
from research.tasks.logits import Logits

MAPS = "hidden_maps"
"""The parameters of a run that lead from its model's states to a teacher's. No model has a part of this name."""
SEEN = ("hidden_states", "attention")
"""Collections in which models show what is inside of them."""
_LAYER = re.compile(r"(?P<stack>.+)/layer_(?P<number>\d+)/(?P<kind>.+)")

type Shown = Mapping[str, Any]
"""Arrays by their names, as a stack of layers or an attention layer shows them."""


def fresh_maps(shapes: Mapping[str, tuple[int, int]], rng: jax.Array) -> dict[str, Any]:
    """{MAPS: {stack: {"kernel"}}} at step 0, of these shapes; {} where there are none."""
    initial = nn.initializers.lecun_normal()
    keys = [jax.random.fold_in(rng, number) for number in range(len(shapes))]
    maps = {stack: {"kernel": initial(key, shapes[stack])} for stack, key in zip(sorted(shapes), keys, strict=True)}
    return {MAPS: maps} if maps else {}


def without_maps(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the model that answers."""
    return {name: part for name, part in params.items() if name != MAPS}


def matched(student: int, teacher: int) -> list[int]:
    """The teacher's layer that each of the student's learns from, both counted from 0: evenly spaced, and the last from
    the last (Jiao et al. 2020, section 3). Raises UserError where the student has more layers."""
    if student > teacher:
        raise UserError(
            f"the model has {student} layers and its teacher {teacher}: set model.num_layers to {teacher} or less, or "
            "distillation.hidden and distillation.attention to 0"
        )
    return [round((layer + 1) * teacher / student) - 1 for layer in range(student)]


class MatchedLayers:
    """What both models showed of their layers in one batch.

    ours, theirs: the collections SEEN of the student and of the teacher. inputs: the student's arguments. logits: the
    student's. Raises UserError where a model shows no stacks of layers, or the two have others.
    """

    def __init__(self, ours: Mapping[str, Any], theirs: Mapping[str, Any], inputs: tuple, logits: Logits):
        self._ours, self._theirs = ours, theirs
        self._row_weights = logits.row_weights
        self._stacks, self._taught = (dict(_stacks(each.get("hidden_states", {}))) for each in (ours, theirs))
        if not self._stacks or self._stacks.keys() != self._taught.keys():
            names = [" and ".join(stacks) or "none" for stacks in (self._stacks, self._taught)]
            raise UserError(
                f"distillation.hidden and attention match stacks of Transformer layers, of which the model has "
                f"{names[0]} and its teacher {names[1]}: set both to 0, or give a teacher of the same kind"
            )
        self._valid = {name: _valid(shown, inputs, logits) for name, shown in self._stacks.items()}

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(the student's width, the teacher's) of each stack. Raises UserError where the student has more layers."""
        found = {}
        for name, ours, theirs in self._pairs():
            matched(len(ours), len(theirs))
            found[_key(name)] = ours.shape[-1], theirs.shape[-1]
        return found

    def _pairs(self) -> Iterator[tuple[str, jax.Array, jax.Array]]:
        for name, shown in self._stacks.items():
            yield name, shown["states"], self._taught[name]["states"]

    def hidden(self, maps: Mapping[str, Any]) -> Float32[Array, ""]:
        """The squared error of the mapped states, mean over channels, layers and the tokens of a row (Jiao et al. 2020,
        equation 8); the weighted sum of rows."""
        means = []
        for name, ours, theirs in self._pairs():
            theirs = theirs[jnp.array(matched(len(ours), len(theirs)))]
            mapped = ours @ maps[_key(name)]["kernel"].astype(ours.dtype)
            errors = (mapped.astype(jnp.float32) - theirs.astype(jnp.float32)) ** 2
            means.append(_row_means(errors.mean(axis=(0, -1)), self._valid[name]))
        return (self._row_weights * jnp.stack(means).mean(axis=0)).sum()

    def attention(self) -> Float32[Array, ""]:
        """The squared error of attention's logits, mean over heads, layers and the pairs of a row's tokens of which one
        may attend to the other (Jiao et al. 2020, equation 7); the weighted sum of rows.

        Raises UserError where the models have other heads, or other kinds of attention.
        """
        ours, theirs = (_attention(each.get("attention", {})) for each in (self._ours, self._theirs))
        if not ours or ours.keys() != theirs.keys():
            raise UserError("distillation.attention needs a teacher with the same kinds of attention: set it to 0")
        means = []
        for (stack, kind), layers in ours.items():
            taught = theirs[stack, kind]
            for layer, number in zip(layers, matched(len(layers), len(taught)), strict=True):
                _check_heads(layer, taught[number])
                errors = (_logits(layer) - _logits(taught[number])) ** 2
                means.append(_row_means(errors.mean(axis=1), _attended(layer, self._valid[stack])))
        return (self._row_weights * jnp.stack(means).mean(axis=0)).sum()


def _stacks(shown: Mapping[str, Any], names: tuple[str, ...] = ()) -> Iterator[tuple[str, Shown]]:
    """What each stack of layers showed last, by its path."""
    for name, value in shown.items():
        if isinstance(value, tuple):
            yield "/".join(names), value[-1]
        else:
            yield from _stacks(value, (*names, name))


def _key(stack: str) -> str:
    return stack.replace("/", "_")


def _valid(shown: Shown, inputs: tuple, logits: Logits) -> Float32[Array, "batch tokens"]:
    """Which tokens of a stack are not padding, 1 or 0.

    Those that its mask lets some token see. Without one, which a causal stack does not need: those whose following
    token is learnt, where the logits are of tokens; or what the model is told about its input; or all of them.
    """
    shape = shown["states"].shape[1:3]
    mask = shown.get("mask")
    if mask is not None and mask.shape[-1] == shape[1]:
        return jnp.broadcast_to(mask.any(axis=(1, 2)), shape).astype(jnp.float32)
    if logits.weights.shape == shape:
        return (logits.weights > 0).astype(jnp.float32)
    told = (each for each in inputs if each is not None and each.shape == shape and each.dtype == jnp.bool_)
    return next(told, jnp.ones(shape, bool)).astype(jnp.float32)


def _row_means(errors: Float[Array, "batch *places"], counted: Float[Array, "batch *places"]) -> Float[Array, " batch"]:
    """The mean of each row over what is counted; 0 where nothing is."""
    axes = tuple(range(1, errors.ndim))
    return (errors * counted).sum(axis=axes) / jnp.maximum(counted.sum(axis=axes), 1e-9)


def _attention(shown: Mapping[str, Any]) -> dict[tuple[str, str], list[Shown]]:
    """What each layer's attention was called with, by the stack and the kind of attention."""
    found: dict[tuple[str, str], dict[int, Shown]] = {}
    for path, arrays in by_layer(shown):
        if (place := _LAYER.fullmatch(path)) and "query" in arrays:
            found.setdefault((place["stack"], place["kind"]), {})[int(place["number"])] = arrays
    return {place: [layers[number] for number in sorted(layers)] for place, layers in found.items()}


def _check_heads(layer: Shown, taught: Shown) -> None:
    ours, theirs = (each["query"].shape[2] for each in (layer, taught))
    if ours != theirs:
        raise UserError(
            f"distillation.attention compares head with head, and the model has {ours} of them, its teacher {theirs}: "
            f"set model.num_heads to {theirs}, or distillation.attention to 0"
        )


def _logits(layer: Shown) -> Float32[Array, "batch heads queries keys"]:
    return attention_logits(layer["query"], layer["key"], bias=layer.get("bias"))


def _attended(layer: Shown, valid: Float[Array, "batch queries"]) -> Float32[Array, "batch queries keys"]:
    """Which queries may attend to which keys, 1 or 0; a query that is padding to none."""
    queries, keys = layer["query"].shape[1], layer["key"].shape[1]
    places = jnp.arange(keys) <= jnp.arange(queries)[:, None]
    allowed = both((places | ~layer["causal"])[None, None], layer.get("mask")).any(axis=1)
    return jnp.broadcast_to(allowed, (len(valid), queries, keys)) * valid[:, :, None]
