"""The one exception a person is meant to read, and texts from outside as one may read them."""

import re


class UserError(Exception):
    """Something the user can change; the message is one sentence that names the value to change."""


def one_line(text: str, most: int = 2000) -> str:
    """Text from outside as at most `most` characters that no terminal and no table takes for anything else."""
    text = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", text)  # a terminal's colours and movements
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
