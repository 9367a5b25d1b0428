"""What a source of examples is: a frozen dataclass whose fields are its config keys.

Examples are dicts: {"source": str, "target": str} for parallel text, {"text": str} for text, and
{"image": uint8 [height, width, channels], "label": int} for images, whose source also has `class_names`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from research.errors import UserError

Example = dict[str, Any]


class Source(Protocol):
    """Examples by split, with random access: a split has a length and any of its examples can be read by index."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names that `examples` accepts."""
        ...

    def examples(self, split: str) -> Sequence[Example]:
        """The examples of a split, read when indexed where they are big; a UserError names an unknown split."""
        ...


def check_split(split: str, splits: Sequence[str]) -> None:
    """Raises the UserError that names an unknown split and the ones to use."""
    if split not in splits:
        *others, last = splits
        choices = f"{', '.join(others)} or {last}" if others else last
        raise UserError(f"split {split!r} is unknown: use {choices}")
