"""Claims run anew: their commands, their stored results, and the tables of README and docs made of both."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from research.analysis.pictures import save_figure
from research.config import build
from research.errors import UserError
from research.files import read_json, write_text
from research.ledger.architectures import STORED, architecture_table
from research.ledger.claims import (
    Claim,
    Result,
    changes_since,
    find_claim,
    finished,
    read_claims,
    read_result,
    replaced,
    save,
    state,
    summarise,
)
from research.ledger.latency import Comparison, benchmark, models_table
from research.training.loggers import read_metrics

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": ("results",), "docs/results.md": ("details", "latency", "architectures")}
SIGNS = {"higher": "", "lower": "at most ", "neither": "near "}
FROM = {
    "paper": "",
    "repository": ", its repository",
    "measured": ", this project",
    "recalled": ", recalled",
    "goal": ", a goal",
}


def reproduce(name: str, workdir: Path, data: str, train: Callable[[str, Path, dict[str, str]], Any]) -> Result:
    """Runs all seeds of a claim, or takes finished runs as they are, and stores what they measured.

    train: trains a config in a folder with overrides, as `experiments.train` does.
    """
    claim = find_claim(name)
    spec, overrides = claim.spec(data)
    folders = [workdir / name / f"seed_{seed}" for seed in claim.seeds]
    for seed, folder in zip(claim.seeds, folders, strict=True):
        if not finished(folder, claim, seed):
            if "models" in claim.settings():
                benchmark(spec, folder, overrides)
            else:
                train(spec, folder, {**overrides, "seed": str(seed)})
    result = summarise(name, claim, folders)
    for folder in folders:
        _draw(claim, folder)
    print(f"{claim.metric} {_measured(claim, result)}, published {_published(claim)}: {state(claim, result)}")
    print(f"written to {save(result)}")
    return result


def _draw(claim: Claim, folder: Path) -> None:
    """`metric.png`: the claim's metric in training and validation, as far as logged, over a logarithmic axis."""
    if not (folder / "metrics.jsonl").exists():
        return
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    name = claim.metric.partition("/")[2]
    for split, style in (("train", "-"), ("validation", "o-")):
        rows = [row for row in read_metrics(folder / "metrics.jsonl") if f"{split}/{name}" in row]
        if rows:
            points = [(row["step"], float(row[f"{split}/{name}"])) for row in rows]
            axes.plot(*zip(*points, strict=True), style, markersize=3, linewidth=1.2, label=split)
    axes.axhline(claim.published, color="gray", linestyle=":", label="published")
    axes.set(xscale="log", xlabel="step", ylabel=name.replace("_", " "), title=claim.title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, folder / "metric.png", 120)


def _published(claim: Claim) -> str:
    return f"{SIGNS[claim.better]}{claim.write(claim.published)}{FROM[claim.source]}"


def _measured(claim: Claim, result: Result | None) -> str:
    if result is None:
        return "-"
    text = claim.write(result.mean)
    if result.deviation is None:
        return text
    deviation = f"{100 * result.deviation:.1f} %" if claim.unit == "%" else f"{result.deviation:.2g}"
    return f"{text} ± {deviation}, {len(result.seeds)} seeds"


def _command(name: str, claim: Claim) -> str:
    if claim.missing:
        return claim.missing
    return f"python -m experiments.reproduce {name}" + (" --data=FOLDER" if claim.data else "")


def _cost(claim: Claim, result: Result | None) -> str:
    """Minutes that the runs took, or are thought to take on two CPU cores."""
    return claim.estimate() if result is None else f"{sum(result.seconds) / 60:.0f} min"


def results_table(claims: Mapping[str, Claim]) -> str:
    """The README's table: a line for each claim, those that were run first."""
    lines = ["| claim | what | published | here | state | time |", "|---|---|---|---|---|---|"]
    rows = [(name, claim, read_result(name)) for name, claim in claims.items()]
    for name, claim, result in sorted(rows, key=lambda row: row[2] is None):
        cells = (f"`{name}`", claim.title, _published(claim), _measured(claim, result))
        lines.append(f"| {' | '.join(cells)} | {state(claim, result)} | {_cost(claim, result)} |")
    return "\n".join(lines)


def details(claims: Mapping[str, Claim]) -> str:
    """What exactly each claim is, and where its result comes from."""
    return "\n\n".join(_detail(name, claim, read_result(name)) for name, claim in claims.items())


def _detail(name: str, claim: Claim, result: Result | None) -> str:
    lines = [
        f"### {name}: {state(claim, result)}",
        f"- {claim.title}; {claim.paper}",
        f"- published: `{claim.metric}` {_published(claim)}; tolerance {claim.write(claim.tolerance)}",
        f"- metric: {claim.definition}",
    ]
    lines += [f"- config: `{claim.config}`"] if claim.config else []
    lines += [f"- data: {claim.data}"] if claim.data else []
    lines += [f"- not built: {claim.missing}" if claim.missing else f"- command: `{_command(name, claim)}`"]
    lines += [f"- cost: {claim.estimate()}"] if result is None and claim.estimate() != "-" else []
    if result is not None:
        values = ", ".join(
            f"{claim.write(value)} (seed {s})" for s, value in zip(result.seeds, result.values, strict=True)
        )
        commits = ", ".join((commit or "no commit")[:7] for commit in result.commits)
        dirty = " with uncommitted changes" if result.uncommitted_changes else ""
        lines.append(f"- measured: {values}; {_cost(claim, result)} on {result.hardware}; commit {commits}{dirty}")
        lines += [f"- changed since: {change}" for change in changes_since(claim, result)]
    return "\n".join(lines)


def latencies() -> str:
    """The table of the models whose latency was measured."""
    result = read_result("latency")
    if result is None:
        return "not measured yet"
    config, metrics = build(Comparison, result.config, ""), result.metrics[0]
    rows: dict[str, dict[str, Any]] = {label: {"model": label} for label in config.models}
    for name, value in metrics.items():
        label, _, quantity = name.rpartition("/")
        if label in rows:
            rows[label][quantity] = value
    return models_table(config, sorted(rows.values(), key=lambda row: row["multiply_adds"]))


def check(write: bool) -> list[str]:
    """Reads every result and compares the tables of the pages; the pages that differ, which `write` renews."""
    claims = read_claims()
    known = {f"{name}.json" for name in claims} | {STORED.name}
    for path in STORED.parent.glob("*.json"):
        if path.name not in known:
            raise UserError(f"{path} belongs to no claim: delete it, or add {path.stem} to claims.toml")
    tables = {
        "results": results_table(claims),
        "details": details(claims),
        "latency": latencies(),
        "architectures": architecture_table(read_json(STORED, Any)),
    }
    different = []
    for page, markers in PAGES.items():
        text = renewed = (ROOT / page).read_text(encoding="utf-8")
        for marker in markers:
            renewed = replaced(renewed, marker, tables[marker])
        if renewed != text:
            different.append(page)
            if write:
                write_text(ROOT / page, renewed)
    return different


def show(claims: Mapping[str, Claim]) -> None:
    """Prints all claims."""
    table = Table("claim", "published", "here", "state", "time (2 CPU cores)", "command", box=None)
    for name, claim in claims.items():
        result = read_result(name)
        cells = (name, _published(claim), _measured(claim, result), state(claim, result), _cost(claim, result))
        table.add_row(*cells, _command(name, claim))
    Console(width=None if sys.stdout.isatty() else 200).print(table, highlight=False)
