"""The sections of a page about runs, in HTML: each from what the runs' folders hold, and nothing else."""

import itertools
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from research.config import ABSENT
from research.files import fits
from research.reports import charts
from research.reports.records import Record, section
from research.reports.stored import LONGEST_TEXT
from research.training.loggers import number

NONE = "\N{EN DASH}"
LONGEST_CONFIG = 200_000


def embedded(data: Any) -> str:
    """JSON for a script element: no text in it can end the element. Raises ValueError for what JSON lacks."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


def progress(record: Record) -> str:
    """How far a run is, in words."""
    duration = section(record.config, "training", "duration")
    planned = next(((unit, amount) for unit, amount in duration.items() if amount and fits(amount, float)), None)
    if planned is None or planned[0] == "steps":
        return f"step {record.step:,}" + (f" of {planned[1]:,}" if planned else "")
    return f"step {record.step:,} of a run of {planned[1]:,} {planned[0]}"


def last_start(record: Record) -> dict[str, Any]:
    """What the manifest tells of the run's last start; {} where it tells nothing."""
    starts = record.manifest.get("starts")
    return starts[-1] if starts and fits(starts, list[dict[str, Any]]) else {}


def sentence(record: Record) -> str:
    """What the run is and how far it is, in HTML."""
    names = [section(record.config, name).get("name") for name in ("model", "task", "data")]
    model, task, data = (escape(text(name)) if name else None for name in names)
    told = [f"{model} for {task} on {data}", progress(record)] if all(names) else [progress(record)]
    if seconds := number(record.timing.get("seconds")):
        told.append(f"{_duration(seconds)} of training")
    devices = last_start(record).get("devices")
    if devices and fits(devices, list[str]):
        told.append(escape(f"{len(devices)} x {devices[0]}"))
    return ", ".join(told) + "."


def results(records: Sequence[Record]) -> str:
    """A table of what was measured, the mean of runs that differ in their seed."""
    names = sorted({name for record in records for name in record.metrics})
    if not names:
        return "<p>No metric has been measured yet.</p>"
    columns = charts.groups(records)
    if len(columns) == 1:  # one column for each split
        ((_, members),) = columns.items()
        splits = sorted({name.partition("/")[0] for name in names})
        metrics = sorted({name.partition("/")[2] for name in names})
        rows = [[metric, *(_mean(members, f"{split}/{metric}") for split in splits)] for metric in metrics]
        measured = table([["metric", *splits], *rows])
    else:
        rows = [[name, *(_mean(members, name) for members in columns.values())] for name in names]
        measured = table([["metric", *columns], *rows])
    missing = [record.name for record in records if not record.results]
    note = f"<p class=note>The last validation, before the end: {escape(', '.join(missing))}.</p>" if missing else ""
    if len(columns) < len(records):
        note += "<p class=note>Mean and standard deviation over the seeds.</p>"
    return note + measured


def evaluations(record: Record) -> str:
    """What was measured with other options, another checkpoint or other data, under the name it was given."""
    if not record.evaluations:
        return ""
    names = sorted({name for kept in record.evaluations.values() for name in kept["results"]})
    rows = []
    for name, kept in record.evaluations.items():
        changes = kept.get("changes", {})
        options = section(changes, "options")
        set_to = ", ".join(f"{option}={text(value)}" for option, value in options.items()) or NONE
        measured = (number(kept["results"].get(metric)) for metric in names)
        values = [NONE if value is None else f"{value:.5g}" for value in measured]
        rows.append([name, text(changes.get("checkpoint")), set_to, *values])
    return table([["evaluation", "checkpoint", "options", *names], *rows])


def _mean(members: Sequence[Record], name: str) -> str:
    values = [record.metrics[name] for record in members if name in record.metrics]
    if not values:
        return NONE
    with np.errstate(all="ignore"):  # infinities have no deviation
        return f"{np.mean(values):.5g}" + (f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else "")


def drawn(figures: Sequence[charts.Chart]) -> str:
    """Charts, with a choice of their scale where they have several."""
    if not figures:
        return ""
    shown = [
        f"<figure{' class=wide' if chart.get('wide') else ''}><figcaption>{escape(chart['title'])}</figcaption>"
        f'<div class=chart data-chart role=img aria-label="{escape(chart["title"])}"></div>'
        f"<script type=application/json>{embedded(chart)}</script></figure>"
        for chart in figures
    ]
    scaled = any("customdata" in trace for chart in figures for trace in chart["data"])
    options = "".join(f"<option>{name}" for name in ("steps", "examples", "seconds"))
    choice = f"<label class=choice>Over <select data-scale>{options}</select></label>" if scaled else ""
    return f"{choice}<div class=charts>{''.join(shown)}</div>"


def samples(record: Record) -> str:
    """The examples that were recorded, with the model's answers."""
    recorded = record.shown.get("samples", [])
    if not recorded:
        return ""
    note = f"<p class=note>From the {escape(record.shown['split'])} split, at step {record.shown['step']:,}.</p>"
    pictures = "".join(_image(sample) for sample in recorded if "image" in sample)
    cards = "".join(_card(sample) for sample in recorded if "image" not in sample)
    return note + (f"<div class=images>{pictures}</div>" if pictures else "") + cards


def _card(sample: Mapping[str, Any]) -> str:
    names = {"source": "source", "prompt": "prompt", "answer": "model", "reference": "reference"}
    lines = [
        f'<dt>{label}</dt><dd dir=auto class="{name}">{escape(sample[name])}</dd>'
        for name, label in names.items()
        if name in sample
    ]
    if "chrf" in sample:
        lines.append(f"<dt>chrF</dt><dd><meter max=100 value={sample['chrf']:.1f}></meter> {sample['chrf']:.1f}</dd>")
    return f"<dl class=sample>{''.join(lines)}</dl>"


def _image(sample: Mapping[str, Any]) -> str:
    answer, reference = sample.get("label", sample.get("answer", "")), sample.get("reference")
    mark = "" if reference is None else "✓ " if answer == reference else "✗ "
    kind = {"": "", "✓ ": "right", "✗ ": "wrong"}[mark]
    certainty = f" <small>{sample['probability']:.0%}</small>" if "probability" in sample else ""
    verdict = mark + escape(answer) + certainty
    truth = f"<br><small>is {escape(str(reference))}</small>" if kind == "wrong" else ""
    picture = f'<img src="{escape(sample["image"])}" alt="{escape(reference or answer)}">'
    return f'<figure class="{kind}">{picture}<figcaption>{verdict}{truth}</figcaption></figure>'


def explorer(records: Sequence[Record]) -> str:
    """Where the model looks in the examples that were recorded."""
    named = [
        [look | {"title": f"{record.name}: {look['title']}"} if len(records) > 1 else look for look in looks]
        for record in records
        if (looks := record.shown.get("attention", []))
    ]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*named))
    looks = [look for look in turns if look][: max(3, len(named))]
    return explored(looks) if looks else ""


def explored(looks: Sequence[Mapping[str, Any]]) -> str:
    """The explorer of these looks, as `research.reports.samples.look` makes them."""
    data = f'<script type=application/json id="attention-data">{embedded(looks)}</script>'
    return f'<div id="explorer"><noscript>The explorer needs JavaScript.</noscript></div>{data}'


def time_spent(record: Record) -> str:
    """What the time went into, and the most memory that was held."""
    timing = {name: value for name, item in record.timing.items() if (value := number(item)) is not None}
    rows = [
        [f"peak memory of the {name}", f"{size / 2**30:.2f} GiB"]
        for name, value in record.shown.get("memory", {}).items()
        if (size := number(value)) is not None
    ]
    if not timing.get("seconds"):
        return table([["", ""], *rows]) if rows else ""
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
        ["model FLOPs utilisation", _utilization(timing)],
        *rows,
    ]
    strip = f"<div class=shares aria-hidden=true>{''.join(bars)}</div>"
    return strip + table([["", ""], *rows], keyed=len(shares))


def _utilization(timing: Mapping[str, float]) -> str:
    if "mfu_percent" not in timing:
        return "not known: the device has no listed peak in this precision"
    peak = f"{timing.get('peak_teraflops', 0):,.0f}"
    return f"{timing['mfu_percent']:.1f} % (FLOPs of the model's products and convolutions / time / {peak} TFLOP/s)"


def configuration(record: Record) -> str:
    """The stored config, and in what it differs from its file, as the run noted when it started."""
    if not record.config:
        return ""
    stored = json.dumps(record.config, indent=2, ensure_ascii=False)
    stored = escape(stored if len(stored) < LONGEST_CONFIG else stored[:LONGEST_CONFIG] + "…")
    return f"{_changes(record)}<details><summary>The whole config</summary><pre>{stored}</pre></details>"


def _changes(record: Record) -> str:
    start = last_start(record)
    spec, changes = start.get("config"), start.get("changes")
    if not isinstance(spec, str) or not fits(changes, list[list[Any]]):
        return ""
    if not changes:
        return f"<p>As in <code>{escape(spec)}</code>.</p>"
    shown = [[NONE if value == ABSENT else text(value) for value in change] for change in changes if len(change) == 3]
    return table([["changed", spec, "this run"], *shown])


def provenance(record: Record) -> str:
    """What the run was started with, and on what data."""
    start = last_start(record)
    if not start:
        return ""
    names = ("time", "command", "commit", "python", "devices", "processes", "cpus")
    told = {name: start.get(name) for name in names}
    rows = [[name, ", ".join(value) if fits(value, list[str]) else text(value)] for name, value in told.items()]
    for name, split in section(record.manifest, "data").items():
        if fits(split, dict[str, Any]) and fits(examples := split.get("examples"), int):
            rows.append([f"{name} split", f"{examples:,} examples"])
            left_out = split.get("left_out")
            rows += [["", sentence] for sentence in left_out] if left_out and fits(left_out, list[str]) else []
    legs = record.manifest.get("legs")
    if fits(legs, list[dict[str, Any]]) and len(legs) > 1:
        rows += [[f"from step {text(leg.get('step'))}", _leg(leg)] for leg in legs]
    packages = start.get("packages")
    if packages and fits(packages, dict[str, str]):
        rows.append(["packages", ", ".join(map(" ".join, packages.items()))])
    rows.append(["seed", text(record.manifest.get("seed"))])
    count = len(record.manifest["starts"])
    resumed = f"<p class=note>Started {count} times; the last start is shown.</p>" if count > 1 else ""
    changes = start.get("uncommitted_changes")
    patch = f"<pre>{escape(changes[:50_000])}</pre>" if changes and isinstance(changes, str) else ""
    folded = f"<details><summary>Uncommitted changes</summary>{patch}</details>" if patch else ""
    return resumed + table([["", ""], *rows]) + folded


def _leg(leg: Mapping[str, Any]) -> str:
    return f"duration {text(leg.get('duration'))}, schedule {text(leg.get('schedule'))}"


def table(rows: Sequence[Sequence[str]], keyed: int = 0) -> str:
    """A table of texts with its head first; the first `keyed` rows carry the colour of their series."""
    head = "".join(f"<th scope=col dir=auto>{escape(cell)}</th>" for cell in rows[0])
    body = ""
    for index, (first, *rest) in enumerate(rows[1:]):
        key = f'<i class=key style="background:var(--series-{index})"></i>' if index < keyed else ""
        cells = "".join(f"<td dir=auto>{escape(cell)}</td>" for cell in rest)
        body += f"<tr><th scope=row dir=auto>{key}{escape(first)}</th>{cells}</tr>"
    return f"<div class=scroll><table>{f'<tr>{head}</tr>' if any(rows[0]) else ''}{body}</table></div>"


def text(value: Any) -> str:
    """A stored value as a cell of a table."""
    if value is None:
        return NONE
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= LONGEST_TEXT else shown[:LONGEST_TEXT] + "…"


def short(value: Any) -> str:
    """A cell of a table file: numbers to four digits."""
    long = isinstance(value, str) and len(value) > 7 and number(value) is not None
    return f"{float(value):.4g}" if long else text(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
