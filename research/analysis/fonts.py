"""Letters of any script in pictures: fonts of this machine beside matplotlib's own, or a sentence on what is absent."""

import functools
import sys
import warnings
from collections.abc import Iterable

from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

BOXES = "Last Resort"
"""The family whose letters are the boxes of their scripts."""


def give_fonts(figure: Figure) -> None:
    """Every text of the figure gets the fonts that its letters need; says which letters none has."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    missing = {letter for text in texts for letter in text.get_text() if letter.isprintable()} - _letters_of(_default())
    if not missing:
        return
    families, boxes = _covering(missing)
    for text in texts:
        text.set_fontfamily([*rcParams["font.family"], *families])
    if boxes:
        shown = ", ".join(repr(letter) for letter in sorted(boxes)[:3])
        print(
            f"warning: no font of this machine has {len(boxes)} of the letters, such as {shown}, which are drawn as "
            "boxes: install one that does, such as Noto Sans CJK",
            file=sys.stderr,
        )


def _covering(letters: Iterable[str]) -> tuple[list[str], set[str]]:
    """Families of fonts that have the letters, each the one with most of what is left, and the letters of none."""
    left, families = set(letters), []
    while left:
        best, name = max(((len(left & _letters_of(path)), name) for name, path in _installed()), default=(0, ""))
        if not best:
            break
        families.append(name)
        left -= _letters_of(dict(_installed())[name])
    return families, left


@functools.cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Name and file of a font of each family, in the order of their names, but for those that draw boxes."""
    fonts = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    return tuple(sorted((name, file) for name, file in fonts.items() if not name.startswith(BOXES)))


def _default() -> str:
    return font_manager.findfont(font_manager.FontProperties())


@functools.cache
def _letters_of(path: str) -> frozenset[str]:
    """The letters that a font has; none of one that cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return frozenset(map(chr, FT2Font(path).get_charmap()))
        except (OSError, RuntimeError, ValueError):
            return frozenset()
