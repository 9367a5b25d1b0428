"""Alignments of words against those that people made: the alignment error rate of Och & Ney 2003, "A Systematic
Comparison of Various Statistical Alignment Models"."""

import re
from collections.abc import Sequence, Set
from typing import NamedTuple

from research.errors import UserError

Link = tuple[int, int]
"""A word of the source and one of the target, counted from 0."""


class Links(NamedTuple):
    """The links of a sentence that are certain, and all that are possible, the certain ones among them."""

    sure: frozenset[Link]
    possible: frozenset[Link]


def read_links(line: str, where: str) -> Links:
    """The Pharaoh format, "0-0 1-2 2?3": `-` for a sure link, `?` for one that is only possible; the source comes
    first.

    where: whose line it is, for the error. Raises UserError for what is not such a link.
    """
    sure, possible = set(), set()
    for text in line.split():
        found = re.fullmatch(r"(\d{1,6})([-?])(\d{1,6})", text, re.ASCII)
        if not found:
            raise UserError(
                f"{where} has {text[:40]!r} in place of a link: write them as 0-0 1-2, possible ones as 2?3"
            )
        link = int(found[1]), int(found[3])
        possible.add(link)
        if found[2] == "-":
            sure.add(link)
    return Links(frozenset(sure), frozenset(possible))


def alignment_scores(answers: Sequence[Set[Link]], right: Sequence[Links]) -> dict[str, float]:
    """`alignment_error_rate`, `precision` and `recall`, each from 0 to 1, counted over all sentences.

    With answers A, sure links S and possible ones P: precision is |A & P| / |A|, recall |A & S| / |S|, and the error
    rate 1 - (|A & S| + |A & P|) / (|A| + |S|). Raises UserError where there is no link to divide by.
    """
    pairs = list(zip(answers, right, strict=True))
    answered, sure = sum(len(answer) for answer, _ in pairs), sum(len(links.sure) for _, links in pairs)
    if not answered or not sure:
        raise UserError(f"there are {answered} links of the model and {sure} sure ones to compare: give some")
    in_sure = sum(len(answer & links.sure) for answer, links in pairs)
    in_possible = sum(len(answer & links.possible) for answer, links in pairs)
    rate = 1 - (in_sure + in_possible) / (answered + sure)
    return {"alignment_error_rate": rate, "precision": in_possible / answered, "recall": in_sure / sure}
