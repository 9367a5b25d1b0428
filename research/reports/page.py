"""One HTML page about runs or a sweep, with everything in it: it needs no network and no other file.

It shows what is stored in their folders as it stands there: no config file is loaded and no data are read.
"""

import string
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from plotly.offline import get_plotlyjs

from research.errors import UserError
from research.reports import charts, sections, stored
from research.reports.records import Record, read_run

PARTS = Path(__file__).parent
RELOAD_SECONDS = 30


def run_page(records: Sequence[Record]) -> str:
    """The page of one run, or of several beside each other. What of a run cannot be shown is told in its place."""
    heads = [_head(one, records) for one in records]
    content = {
        "Results": _together(sections.results, records),
        "Other evaluations": _each(sections.evaluations, records),
        "Learning curves": _together(lambda runs: sections.drawn(charts.learning_curves(runs)), records),
        "Samples": _each(sections.samples, records),
        "Attention": _together(sections.explorer, records),
        "Time": _each(sections.time_spent, records),
        "Configuration": _each(sections.configuration, records),
        "Provenance": _each(sections.provenance, records),
    }
    running = any(one.state == "running" for one in records)
    return page(", ".join(one.name for one in records), "".join(heads), content, RELOAD_SECONDS if running else None)


def sweep_page(folder: Path, root: Path | None = None) -> str:
    """The page of a folder with a `sweep.csv`. Raises UserError where that is not a table of trials.

    Files that lead out of `root`, the folder itself unless given, are not read.
    """
    root, notes = root or folder, []
    trials = stored.trials(folder / "sweep.csv", root, notes)
    records = []
    for place in dict.fromkeys(folder / trial["folder"] for trial in trials if trial.get("folder")):
        if stored.exists(place / "metrics.jsonl", root):
            try:
                records.append(read_run(place, root=root))
            except (UserError, OSError) as error:
                notes.append(stored.told(error, folder))
    picture = stored.picture(folder / "importance.png", root, notes)
    rows = [list(map(sections.short, row)) for row in (trials[0], *map(dict.values, trials))] if trials else []
    content = {
        "Parameters": _guarded(lambda: sections.drawn(charts.sweep_charts(trials))),
        "Importance": picture and f'<img alt="importance of each parameter" src="{picture}">',
        "Trials": sections.table(rows) if trials else "",
        "Learning curves": _together(lambda runs: sections.drawn(charts.learning_curves(runs)), records),
    }
    lead = f"<p class=lead>A sweep of {len(trials)} trials.</p>{_notes(notes)}"
    return page(folder.resolve().name, lead, content, None)


def page(title: str, head: str, content: Mapping[str, str], reload: int | None) -> str:
    """HTML of the sections that have content, with the scripts that their charts and attention need."""
    filled = {name: text for name, text in content.items() if text}
    blocks = [
        f'<section id="{_anchor(name)}"><h2>{name}</h2><div>{text}</div></section>' for name, text in filled.items()
    ]
    links = [f'<a href="#{_anchor(name)}">{name}</a>' for name in filled] if len(filled) > 1 else []
    body = "".join(blocks)
    scripts = []
    if "data-chart" in body:
        scripts += [get_plotlyjs(), part("charts.js")]
    if 'id="explorer"' in body:
        scripts.insert(0, part("explorer.js"))
    text = string.Template(part("page.html")).substitute(
        title=escape(title),
        reload=f'<meta http-equiv="refresh" content="{reload}">' if reload else "",
        style=part("report.css"),
        head=head,
        links="".join(links),
        body=body,
        time=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        scripts="".join(f"<script>{script}</script>" for script in scripts),
    )
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair, which JSON can hold, is not text


def _head(record: Record, records: Sequence[Record]) -> str:
    name = f"<b>{escape(record.name)}</b>: " if len(records) > 1 else ""
    state = f'<span class="state {record.state}">{record.state}</span>'
    return f"<p class=lead>{state} {name}{_guarded(lambda: sections.sentence(record))}</p>{_notes(record.notes)}"


def _notes(notes: Sequence[str]) -> str:
    told = [*notes[:20], *([f"{len(notes) - 20} more files"] if len(notes) > 20 else [])]
    return "".join(f"<p class=note>Not shown: {escape(note[:500])}.</p>" for note in told)


def _each(section: Callable[[Record], str], records: Sequence[Record]) -> str:
    """What is told of each run by itself: folded up under its name where there are several."""
    told = []
    for record in records:
        content = _guarded(lambda record=record: section(record))
        if content and len(records) > 1:
            content = f"<details><summary>{escape(record.name)}</summary>{content}</details>"
        told.append(content)
    return "".join(told)


def _together(section: Callable[[Sequence[Record]], str], records: Sequence[Record]) -> str:
    """What is told of all runs at once: of those that can be shown, with a sentence for each of the others."""
    notes, good = [], []
    for record in records:
        try:
            section([record])
            good.append(record)
        except Exception as error:
            notes.append(f"{record.name}: {_damage(error)}")
    return _notes(notes) + (_guarded(lambda: section(good)) if good else "")


def _guarded(section: Callable[[], str]) -> str:
    """A section, or the sentence that it cannot be shown: whatever a file holds, the rest of the page is shown."""
    try:
        return section()
    except Exception as error:
        return _notes([_damage(error)])


def _damage(error: Exception) -> str:
    return f"what is stored is damaged ({type(error).__name__}: {str(error)[:200]})"


def part(name: str) -> str:
    """A style sheet, script or template of the pages."""
    return (PARTS / name).read_text(encoding="utf-8")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
