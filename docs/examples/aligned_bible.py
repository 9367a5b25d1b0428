"""Verses of the New Testament in Greek and English with people's word alignments, as files of lines.

    python docs/examples/aligned_bible.py FOLDER bible

FOLDER holds the data of the package bible-alignments (`data/`): the SBL Greek New Testament, the Berean Standard Bible
and Biblica's manual alignments. Writes {train,validation,test}.{el,en}, tokens parted by blanks, and {split}.links in
the Pharaoh format. Every twentieth verse validates, and the one after it tests.
"""

import csv
import json
import sys
from pathlib import Path


def main(package: Path, out: Path) -> None:
    """Converts the package's files."""
    verses = {side: tokens(package / file) for side, file in
              {"el": "data/sources/SBLGNT.tsv", "en": "data/eng/targets/BSB/nt_BSB.tsv"}.items()}  # fmt: skip
    records = json.loads((package / "data/eng/alignments/BSB/SBLGNT-BSB-manual.json").read_text(encoding="utf-8"))
    links: dict[str, set[str]] = {}
    for record in records["records"]:
        for source in record["source"]:
            for target in record["target"]:
                verse = source[1:9]
                if target[:8] == verse:  # a few link words of two verses
                    places = [[*verses[side][verse]].index(name) for side, name in (("el", source), ("en", target))]
                    links.setdefault(verse, set()).add(f"{places[0]}-{places[1]}")
    out.mkdir(exist_ok=True)
    lines: dict[str, list[str]] = {}
    for number, verse in enumerate(verse for verse in verses["el"] if verse in links):
        split = {0: "validation", 1: "test"}.get(number % 20, "train")
        for side in verses:
            lines.setdefault(f"{split}.{side}", []).append(" ".join(verses[side][verse].values()))
        lines.setdefault(f"{split}.links", []).append(" ".join(sorted(links[verse])))
    for name, text in lines.items():
        (out / name).write_text("\n".join(text) + "\n", encoding="utf-8")


def tokens(file: Path) -> dict[str, dict[str, str]]:
    """For each verse its tokens by their names, in their order."""
    found: dict[str, dict[str, str]] = {}
    with open(file, encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            name = row["id"]
            found.setdefault(name.lstrip("n")[:8], {})[name] = row["text"].replace(" ", "")
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
