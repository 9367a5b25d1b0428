"""The fields of our models and the keys of a published `config.json`: one list a family, used in both directions."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from research.errors import UserError

type Derive = Callable[[Mapping[str, Any]], dict[str, Any]]

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""transformers' names of the activations that we have; of several for one of ours, the first is written."""


class Field(NamedTuple):
    """One of our fields and their key. default: what no key means. values: theirs -> ours, where they differ."""

    ours: str
    theirs: str
    default: Any
    values: Mapping[Any, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Fields:
    """fixed: keys that change what a model computes and of which ours has one value: theirs, where it is there.

    derived: our fields that follow from several of their keys, and the other way round. sections: of the models that
    are fields of ours.
    """

    fields: tuple[Field, ...]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    derived: tuple[Derive, Derive] | None = None
    sections: tuple["Section", ...] = ()

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Our fields. Raises UserError for a value that our model does not have."""
        for key, value in self.fixed.items():
            if config.get(key, value) != value:
                there = json.dumps(config[key])[:40]
                raise UserError(f"config.json has {key} {there}: only models with {json.dumps(value)} are known here")
        values = {field.ours: self._value(field, config) for field in self.fields}
        values |= self.derived[0](config) if self.derived else {}
        return values | {section.ours: section.of(config) for section in self.sections}

    def theirs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Their keys, of all our fields. Raises UserError for a value that they have no name for."""
        config = {**self.fixed, **(self.derived[1](values) if self.derived else {})}
        for field in self.fields:
            value = values[field.ours]
            if field.values:
                names = [theirs for theirs, ours in field.values.items() if ours == value]
                if not names:
                    known = ", ".join(map(str, dict.fromkeys(field.values.values())))
                    raise UserError(f"transformers has no model.{field.ours} {value!r} here: train with one of {known}")
                value = names[0]
            config[field.theirs] = list(value) if isinstance(value, tuple) else value
        for section in self.sections:
            config[section.theirs] = section.keys(values[section.ours]) | config.get(section.theirs, {})
        return config

    def _value(self, field: Field, config: Mapping[str, Any]) -> Any:
        value = config.get(field.theirs, field.default)
        if field.values is None:
            return value
        if not isinstance(value, str | int | float) or value not in field.values:
            known = ", ".join(map(str, field.values))
            raise UserError(f"config.json has {field.theirs} {json.dumps(value)[:40]}: only {known} are known here")
        return field.values[value]


def part_of(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The part of a config that a key names; {} where there is none.

    With "_dict" behind the key it is what the first versions wrote, which counts in place of the other where both are
    there. Raises UserError for one that is not an object.
    """
    part = config.get(f"{key}_dict") or config.get(key) or {}
    if not isinstance(part, dict):
        raise UserError(f"config.json has {key} {json.dumps(part)[:40]}: restore it as it was published")
    return part


class Section(NamedTuple):
    """A model within a model. ours: our field; model: ours by its name in configs; always: its fields that all have.

    theirs: the key of its part of `config.json`, see `part_of`.
    """

    ours: str
    theirs: str
    model: str
    always: Mapping[str, Any]
    fields: Fields

    def of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Our section of a config. Raises UserError as `Fields.ours`, and where the part is not an object."""
        return {"name": self.model, **self.always, **self.fields.ours(part_of(config, self.theirs))}

    def keys(self, model: Any) -> dict[str, Any]:
        """Their part. Raises UserError for a model of another kind."""
        if (kind := type(model).__name__.lower()) != self.model:
            raise UserError(
                f"transformers has no such model with {kind} as model.{self.ours}: export one with {self.model}"
            )
        return self.fields.theirs(vars(model))
