"""The ledger: published results (`claims.toml`), what was measured here (`results/*.json`), and tables of both."""

import dataclasses
import hashlib
import json
import re
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from research.config import build, diff, from_json, load, read_config, suggestion, to_json
from research.errors import UserError
from research.files import Unreadable, read_json, write_text
from research.runs.folder import LAUNCH_ONLY
from research.training.loggers import read_metrics

CLAIMS = Path(__file__).parent / "claims.toml"
RESULTS = Path(__file__).parent / "results"
DATA_PATHS = re.compile(r"data\.((\w+_)?(path|source|target)|data_dir)|transfer\.source|task\.tokenizer\.path")
LOG_LINES = 5


@dataclasses.dataclass(frozen=True)
class Claim:
    """A published result, and the config that is to reproduce it; `claims.toml` says what its fields mean."""

    title: str
    paper: str
    source: Literal["paper", "repository", "measured", "recalled", "goal"]
    metric: str
    definition: str
    published: float
    tolerance: float
    better: Literal["higher", "lower", "neither"] = "higher"
    unit: Literal["%", "percent", "BLEU", "nats", "times"] = "%"
    config: str | None = None
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    data: str | None = None
    accelerator: bool = False
    steps: int | None = None
    seconds_per_step: float | None = None
    cost: str | None = None
    missing: str | None = None

    def reached_by(self, value: float) -> bool:
        """Whether a measured value confirms the claim."""
        short = {"higher": self.published - value, "lower": value - self.published}
        return short.get(self.better, abs(value - self.published)) <= self.tolerance + 1e-9

    def spec(self, data: str) -> tuple[str, dict[str, str]]:
        """The config and its overrides, with the folder of the data."""
        overrides = {path: text.format(data=data) for path, text in self.overrides.items()}
        return (self.config or "").format(data=data), overrides

    def settings(self) -> ConfigDict:
        """What the config says today, as `comparable`."""
        return comparable(load(*self.spec("data")))

    def write(self, value: float) -> str:
        """A value in the claim's unit, with the digits that matter."""
        if self.unit == "%":
            return f"{100 * value:.4g} %"
        if self.unit == "percent":
            return f"{value:.4g} %"
        return f"{value:.{4 if self.unit == 'nats' else 2}f} {self.unit}"

    def estimate(self) -> str:
        """What all its runs cost, in words."""
        if self.steps is None or self.seconds_per_step is None:
            return self.cost or "-"
        minutes = self.steps * self.seconds_per_step * len(self.seeds) / 60
        return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


@dataclasses.dataclass(frozen=True)
class Result:
    """What `results/NAME.json` holds: the claim as it was, and all that is needed to trust or repeat its runs.

    config: as `comparable`. Tuples have one entry a seed. seconds: of training, by the last start of each run. data:
    sizes and digests of the splits. log: the last lines of `metrics.jsonl`.
    """

    name: str
    claim: Mapping[str, Any]
    config: Mapping[str, Any]
    config_fingerprint: str
    commits: tuple[str | None, ...]
    uncommitted_changes: bool
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    deviation: float | None
    reproduced: bool
    hardware: str
    packages: Mapping[str, str]
    seconds: tuple[float, ...]
    data: Mapping[str, Any]
    metrics: tuple[Mapping[str, float], ...]
    log: tuple[tuple[Mapping[str, Any], ...], ...]


def read_claims() -> dict[str, Claim]:
    """All claims by name. Raises UserError for an entry that is not one."""
    entries = tomllib.loads(CLAIMS.read_text(encoding="utf-8"))
    return {name: build(Claim, entry, f"claims.{name}") for name, entry in entries.items()}


def find_claim(name: str) -> Claim:
    """The claim of that name. Raises UserError for an unknown one, or one that no command can reproduce yet."""
    claims = read_claims()
    if name not in claims:
        raise UserError(f"{name!r} is not a claim: {suggestion(name, claims, 'claims')}")
    if claims[name].missing:
        raise UserError(f"{name} cannot be reproduced yet ({claims[name].missing}): choose another claim")
    return claims[name]


def comparable(config: ConfigDict) -> ConfigDict:
    """The config without what no result depends on: the seed, where data and published weights lie, and what is
    `LAUNCH_ONLY`."""
    config = from_json(to_json(config))
    for path, _, _ in diff(ConfigDict(), config):
        if path == "seed" or path.startswith(LAUNCH_ONLY) or DATA_PATHS.fullmatch(path):
            *sections, key = path.split(".")
            section = config
            for name in sections:
                section = section[name]
            del section[key]
    return ConfigDict({name: value for name, value in config.items() if value or not isinstance(value, ConfigDict)})


def fingerprint(settings: Mapping[str, Any] | ConfigDict) -> str:
    """A digest of `comparable` settings."""
    text = json.dumps(json.loads(to_json(settings)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def finished(folder: Path, claim: Claim, seed: int) -> bool:
    """Whether the folder holds a finished run of the claim. Raises UserError where it is of another config."""
    if not (folder / "results.json").exists():
        return False
    stored = read_config(folder / "config.json")
    changes = diff(comparable(stored), claim.settings())
    if stored.get("seed", 0) != seed:
        changes.append(("seed", stored.get("seed", 0), seed))
    if changes:
        path, old, new = changes[0]
        raise UserError(
            f"{folder} holds a run of another config ({path} is {old!r} there and {new!r} today): use another --workdir"
        )
    return True


def summarise(name: str, claim: Claim, folders: Sequence[Path]) -> Result:
    """The result of finished runs, one for each seed of the claim."""
    metrics = [read_json(folder / "results.json", dict[str, float]) for folder in folders]
    manifests = [read_json(folder / "manifest.json") for folder in folders]
    if claim.metric not in metrics[0]:
        raise UserError(f"{folders[0]} measured no {claim.metric}: {suggestion(claim.metric, metrics[0], 'metrics')}")
    values = [run[claim.metric] for run in metrics]
    starts = [start for manifest in manifests for start in manifest["starts"]]
    last = starts[-1]
    settings = comparable(read_config(folders[0] / "config.json"))
    return Result(
        name=name,
        claim=dataclasses.asdict(claim),
        config=json.loads(to_json(settings)),
        config_fingerprint=fingerprint(settings),
        commits=tuple(dict.fromkeys(start["commit"] for start in starts)),
        uncommitted_changes=any(_changed(start["uncommitted_changes"]) for start in starts),
        seeds=claim.seeds,
        values=tuple(values),
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        reproduced=claim.reached_by(statistics.fmean(values)),
        hardware=f"{len(last['devices'])} x {last['devices'][0]}, {last['cpus']} CPU cores",
        packages={**last["packages"], "python": last["python"]},
        seconds=tuple(read_json(folder / "timing.json", dict[str, float])["seconds"] for folder in folders),
        data=manifests[0]["data"],
        metrics=tuple(metrics),
        log=tuple(tuple(read_metrics(folder / "metrics.jsonl")[-LOG_LINES:]) for folder in folders),
    )


def _changed(diff: Any) -> bool:
    """Whether a diff touches anything but results of the ledger, which each claim that is reproduced writes."""
    if not isinstance(diff, str):
        return bool(diff)
    own = r"a/research/ledger/results/[\w.-]+ b/research/ledger/results/[\w.-]+"
    files = re.findall(r"^diff --git (.*)$", diff, re.MULTILINE)
    return bool(diff) and not (files and all(re.fullmatch(own, file) for file in files))


def read_result(name: str) -> Result | None:
    """The stored result of a claim, None before there is one. Raises UserError where it contradicts itself."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    try:
        result = build(Result, read_json(path), path.name)
    except Unreadable as error:
        raise UserError(f"{error}, or run experiments.reproduce {name}") from None
    claim = build(Claim, result.claim, f"{path.name}: claim")
    mean = statistics.fmean(result.values)
    wrong = {
        "name": result.name != name,
        "mean": abs(result.mean - mean) > 1e-9,
        "values": len(result.values) != len(result.seeds) or len(result.metrics) != len(result.seeds),
        "metrics": [run.get(claim.metric) for run in result.metrics] != list(result.values),
        "reproduced": result.reproduced != claim.reached_by(mean),
        "config_fingerprint": result.config_fingerprint != fingerprint(result.config),
    }
    for field in (field for field, is_wrong in wrong.items() if is_wrong):
        raise UserError(f"{path.name}: {field} contradicts the rest: run experiments.reproduce {name} again")
    return result


def changes_since(claim: Claim, result: Result) -> list[str]:
    """What has changed in claim and config since the result was measured, one line each."""
    then = build(Claim, result.claim, "claim")
    measured = ("metric", "seeds", "published", "tolerance", "better")
    lines = [f"claim.{field}" for field in measured if getattr(then, field) != getattr(claim, field)]
    return lines + [f"{path}: {old!r} -> {new!r}" for path, old, new in diff(result.config, claim.settings())]


def state(claim: Claim, result: Result | None) -> str:
    """What is known of a claim: reproduced, missed, stale, or why it was not tried."""
    if result is not None:
        return "stale" if changes_since(claim, result) else "reproduced" if result.reproduced else "missed"
    if claim.missing:
        return "not built"
    wants = ["data"] * bool(claim.data) + ["an accelerator"] * claim.accelerator
    return f"needs {' and '.join(wants)}" if wants else "not yet"


def replaced(text: str, marker: str, table: str) -> str:
    """The text with what stands between `<!-- marker -->` and `<!-- /marker -->` replaced. Raises UserError."""
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not pattern.search(text):
        raise UserError(f"the marker <!-- {marker} --> is missing: put it and <!-- /{marker} --> around the table")
    return pattern.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


def save(result: Result) -> Path:
    """Writes the result to `results/NAME.json`."""
    path = RESULTS / f"{result.name}.json"
    path.parent.mkdir(exist_ok=True)
    write_text(path, to_json(dataclasses.asdict(result)) + "\n")
    return path
