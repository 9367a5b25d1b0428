"""One HTML page about runs or a sweep, with everything in it: it needs no network and no other file."""

import base64
import csv
import itertools
import json
import shlex
import string
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from experiments.pages import charts
from experiments.pages.records import Record, number, read_run
from research.config import ABSENT, diff, load
from research.errors import UserError

PARTS = Path(__file__).parent
RELOAD_SECONDS = 30
NONE = "\N{EN DASH}"


def run_page(records: Sequence[Record]) -> str:
    """The page of one run, or of several beside each other."""
    states = [f'<span class="state {one.state}">{one.state}</span>' for one in records]
    several = len(records) > 1
    told = [(f"<b>{escape(one.name)}</b>: " if several else "") + _sentence(one) for one in records]
    heads = [f"<p class=lead>{state} {sentence}</p>" for state, sentence in zip(states, told, strict=True)]
    sections = {
        "Results": _results(records),
        "Learning curves": _charts(charts.learning_curves(records)),
        "Samples": "".join(_named(one, records, _samples(one)) for one in records),
        "Attention": _explorer(records),
        "Time": "".join(_named(one, records, _time(one)) for one in records),
        "Configuration": "".join(_named(one, records, _config(one)) for one in records),
        "Provenance": "".join(_named(one, records, _provenance(one)) for one in records),
    }
    running = any(one.state == "running" for one in records)
    return page(", ".join(one.name for one in records), "".join(heads), sections, RELOAD_SECONDS if running else None)


def sweep_page(folder: Path) -> str:
    """The page of a folder with a `sweep.csv`. Raises UserError where that is no table of trials."""
    try:
        with (folder / "sweep.csv").open(newline="", encoding="utf-8") as file:
            trials = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{folder / 'sweep.csv'} is no table of trials ({error}): run the sweep again") from error
    places = [(folder / trial["folder"]).resolve() for trial in trials if trial.get("folder")]
    inside = [place for place in places if place.is_relative_to(folder.resolve())]
    records = [read_run(place) for place in inside if (place / "metrics.jsonl").exists()]
    importance = folder / "importance.png"
    picture = base64.b64encode(importance.read_bytes()).decode() if importance.exists() else ""
    sections = {
        "Parameters": _charts(charts.sweep_charts(trials)),
        "Importance": picture and f'<img alt="importance of each parameter" src="data:image/png;base64,{picture}">',
        "Trials": _table([list(map(_short, row)) for row in (trials[0], *map(dict.values, trials))]) if trials else "",
        "Learning curves": _charts(charts.learning_curves(records)),
    }
    return page(folder.resolve().name, f"<p class=lead>A sweep of {len(trials)} trials.</p>", sections, None)


def page(title: str, head: str, sections: Mapping[str, str], reload: int | None) -> str:
    """HTML of the sections that have content, with the scripts that their charts and attention need."""
    filled = {name: content for name, content in sections.items() if content}
    blocks = [
        f'<section id="{_anchor(name)}"><h2>{name}</h2><div>{content}</div></section>'
        for name, content in filled.items()
    ]
    links = [f'<a href="#{_anchor(name)}">{name}</a>' for name in filled] if len(filled) > 1 else []
    body = "".join(blocks)
    scripts = []
    if "data-chart" in body:
        scripts += [get_plotlyjs(), (PARTS / "charts.js").read_text()]
    if 'id="explorer"' in body:
        scripts.insert(0, (PARTS / "explorer.js").read_text())
    text = string.Template((PARTS / "page.html").read_text()).substitute(
        title=escape(title),
        reload=f'<meta http-equiv="refresh" content="{reload}">' if reload else "",
        style=(PARTS / "report.css").read_text(),
        head=head,
        links="".join(links),
        body=body,
        time=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        scripts="".join(f"<script>{script}</script>" for script in scripts),
    )
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair, which JSON can hold, is no text


def embedded(data: Any) -> str:
    """JSON for a script element: no text in it can end the element."""
    return json.dumps(data).replace("<", "\\u003c")


def progress(record: Record) -> str:
    """How far a run is, in words."""
    duration = record.config.get("training", {}).get("duration", {})
    planned = next(((unit, amount) for unit, amount in duration.items() if amount), None)
    if planned is None or planned[0] == "steps":
        return f"step {record.step:,}" + (f" of {planned[1]:,}" if planned else "")
    return f"step {record.step:,} of a run of {planned[1]:,} {planned[0]}"


def _sentence(record: Record) -> str:
    config, starts = record.config, record.manifest.get("starts", [])
    names = [config.get(section, {}).get("name") for section in ("model", "task", "data")]
    model, task, data = (escape(str(name)) if name else None for name in names)
    told = [f"{model} for {task} on {data}", progress(record)] if all(names) else [progress(record)]
    if seconds := record.timing.get("seconds"):
        told.append(f"{_duration(seconds)} of training")
    if starts and (devices := starts[-1].get("devices")):
        told.append(escape(f"{len(devices)} x {devices[0]}"))
    return ", ".join(told) + "."


def _named(record: Record, records: Sequence[Record], content: str) -> str:
    """What is told of each run: folded up under its name where there are several."""
    if not content or len(records) == 1:
        return content
    return f"<details><summary>{escape(record.name)}</summary>{content}</details>"


def _results(records: Sequence[Record]) -> str:
    names = sorted({name for record in records for name in record.metrics})
    if not names:
        return "<p>No metric has been measured yet.</p>"
    columns = charts.groups(records)
    if len(columns) == 1:  # one column for each split
        ((_, members),) = columns.items()
        splits = sorted({name.partition("/")[0] for name in names})
        metrics = sorted({name.partition("/")[2] for name in names})
        rows = [[metric, *(_mean(members, f"{split}/{metric}") for split in splits)] for metric in metrics]
        table = _table([["metric", *splits], *rows])
    else:
        rows = [[name, *(_mean(members, name) for members in columns.values())] for name in names]
        table = _table([["metric", *columns], *rows])
    missing = [record.name for record in records if not record.results]
    note = f"<p class=note>The last validation, before the end: {escape(', '.join(missing))}.</p>" if missing else ""
    if len(columns) < len(records):
        note += "<p class=note>Mean and standard deviation over the seeds.</p>"
    return note + table


def _mean(members: Sequence[Record], name: str) -> str:
    values = [record.metrics[name] for record in members if name in record.metrics]
    if not values:
        return NONE
    return f"{np.mean(values):.5g}" + (f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else "")


def _charts(drawn: Sequence[charts.Chart]) -> str:
    if not drawn:
        return ""
    figures = [
        f"<figure{' class=wide' if chart.get('wide') else ''}><figcaption>{escape(chart['title'])}</figcaption>"
        f'<div class=chart data-chart role=img aria-label="{escape(chart["title"])}"></div>'
        f"<script type=application/json>{embedded(chart)}</script></figure>"
        for chart in drawn
    ]
    scaled = any("customdata" in trace for chart in drawn for trace in chart["data"])
    options = "".join(f"<option>{name}" for name in ("steps", "examples", "seconds"))
    choice = f"<label class=choice>Over <select data-scale>{options}</select></label>" if scaled else ""
    return f"{choice}<div class=charts>{''.join(figures)}</div>"


def _samples(record: Record) -> str:
    samples = record.shown.get("samples", [])
    if not samples:
        return ""
    note = f"<p class=note>From the {escape(record.shown['split'])} split, at step {record.shown['step']:,}.</p>"
    if "image" in samples[0]:
        return f"{note}<div class=images>{''.join(map(_image, samples))}</div>"
    names = {"source": "source", "prompt": "prompt", "answer": "model", "reference": "reference"}
    cards = []
    for sample in samples:
        lines = [
            f'<dt>{label}</dt><dd dir=auto class="{name}">{escape(sample[name])}</dd>'
            for name, label in names.items()
            if name in sample
        ]
        if "chrf" in sample:
            lines.append(
                f"<dt>chrF</dt><dd><meter max=100 value={sample['chrf']:.1f}></meter> {sample['chrf']:.1f}</dd>"
            )
        cards.append(f"<dl class=sample>{''.join(lines)}</dl>")
    return note + "".join(cards)


def _image(sample: Mapping[str, Any]) -> str:
    right = sample["label"] == sample["reference"]
    verdict = f"{'✓' if right else '✗'} {escape(sample['label'])} <small>{sample['probability']:.0%}</small>"
    truth = "" if right else f"<br><small>is {escape(sample['reference'])}</small>"
    picture = f'<img src="{escape(sample["image"])}" alt="{escape(sample["reference"])}">'
    return (
        f'<figure class="{"right" if right else "wrong"}">{picture}<figcaption>{verdict}{truth}</figcaption></figure>'
    )


def _explorer(records: Sequence[Record]) -> str:
    named = [
        [look | {"title": f"{record.name}: {look['title']}"} if len(records) > 1 else look for look in looks]
        for record in records
        if (looks := record.shown.get("attention", []))
    ]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*named))
    looks = [look for look in turns if look][: max(3, len(named))]
    if not looks:
        return ""
    data = f'<script type=application/json id="attention-data">{embedded(looks)}</script>'
    return f'<div id="explorer"><noscript>The explorer needs JavaScript.</noscript></div>{data}'


def _time(record: Record) -> str:
    timing = {name: value for name, item in record.timing.items() if (value := number(item)) is not None}
    rows = [
        [f"peak memory of the {name}", f"{size / 2**30:.2f} GiB"]
        for name, size in record.shown.get("memory", {}).items()
    ]
    if not timing.get("seconds"):
        return _table([["", ""], *rows]) if rows else ""
    paused = {name: timing.get(f"{name}_seconds", 0) for name in ("evaluation", "checkpoint", "compilation")}
    stepping = max(timing["seconds"] - sum(paused.values()), 0)
    data = stepping * timing.get("data_wait_percent", 0) / 100
    shares = {"compute": stepping - data, "data": data, **paused}
    bars = [
        f'<i style="flex-grow:{seconds / timing["seconds"]:.5f};background:var(--series-{index})"></i>'
        for index, seconds in enumerate(shares.values())
    ]
    rows = [
        *([name, f"{_duration(value)} · {value / timing['seconds']:.1%}"] for name, value in shares.items()),
        ["steps per second", f"{timing.get('steps_per_second', 0):.3g}"],
        *rows,
    ]
    strip = f"<div class=shares aria-hidden=true>{''.join(bars)}</div>"
    return strip + _table([["", ""], *rows], keyed=len(shares))


def _config(record: Record) -> str:
    if not record.config:
        return ""
    stored = escape(json.dumps(record.config, indent=2, ensure_ascii=False))
    return f"{_changes(record)}<details><summary>The whole config</summary><pre>{stored}</pre></details>"


def _changes(record: Record) -> str:
    """How the config differs from its file, for files of the project's own configs."""
    starts = record.manifest.get("starts", [])
    arguments = shlex.split(starts[-1].get("command", "")) if starts else []
    spec = next((argument[9:] for argument in arguments if argument.startswith("--config=")), None)
    root = PARTS.parents[1] / "configs"
    if spec is None or root not in Path(spec.partition(":")[0]).resolve().parents:
        return ""
    try:
        changes = diff(load(spec), record.config)
    except UserError:
        return ""
    if not changes:
        return f"<p>As in <code>{escape(spec)}</code>.</p>"
    shown = [[path, *(NONE if value == ABSENT else _text(value) for value in pair)] for path, *pair in changes]
    return _table([["changed", spec, "this run"], *shown])


def _provenance(record: Record) -> str:
    starts = record.manifest.get("starts", [])
    if not starts:
        return ""
    names = ("time", "command", "commit", "python", "devices", "processes", "cpus")
    told = {name: starts[-1].get(name) for name in names}
    rows = [[name, ", ".join(value) if isinstance(value, list) else _text(value)] for name, value in told.items()]
    rows += [
        [f"{name} split", f"{split['examples']:,} examples"] for name, split in record.manifest.get("data", {}).items()
    ]
    rows.append(["packages", ", ".join(map(" ".join, starts[-1].get("packages", {}).items()))])
    rows.append(["seed", _text(record.manifest.get("seed"))])
    resumed = f"<p class=note>Started {len(starts)} times; the last start is shown.</p>" if len(starts) > 1 else ""
    changes = starts[-1].get("uncommitted_changes")
    patch = (
        f"<details><summary>Uncommitted changes</summary><pre>{escape(changes[:50_000])}</pre></details>"
        if changes
        else ""
    )
    return resumed + _table([["", ""], *rows]) + patch


def _table(rows: Sequence[Sequence[str]], keyed: int = 0) -> str:
    """A table of texts with its head first; the first `keyed` rows carry the colour of their series."""
    head = "".join(f"<th scope=col dir=auto>{escape(cell)}</th>" for cell in rows[0])
    body = ""
    for index, (first, *rest) in enumerate(rows[1:]):
        key = f'<i class=key style="background:var(--series-{index})"></i>' if index < keyed else ""
        cells = "".join(f"<td dir=auto>{escape(cell)}</td>" for cell in rest)
        body += f"<tr><th scope=row dir=auto>{key}{escape(first)}</th>{cells}</tr>"
    return f"<div class=scroll><table>{f'<tr>{head}</tr>' if any(rows[0]) else ''}{body}</table></div>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else NONE if value is None else json.dumps(value, ensure_ascii=False)


def _short(value: Any) -> str:
    """A cell of a table file: numbers to four digits."""
    long = isinstance(value, str) and len(value) > 7 and number(value) is not None
    return f"{float(value):.4g}" if long else _text(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
