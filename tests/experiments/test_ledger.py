"""The ledger of reproduced results: claims, what is stored of their runs, and the tables made of both."""

import functools
import json
import shutil
from pathlib import Path

import pytest

from research.config import load
from research.errors import UserError
from research.ledger import claims as ledger
from research.ledger import reproduction as reproduce
from research.ledger.claims import comparable, find_claim, fingerprint, read_claims, read_result, state

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = read_claims()
TINY = """
[tiny]
title = "SCAN, tiny"
paper = "nobody 2026"
source = "recalled"
metric = "test/exact_match"
definition = "share of right sequences"
published = 0.0
tolerance = 0.05
better = "neither"
config = "configs/translation/scan.py:split=length26,tiny"
seeds = [0, 1]

[timed]
title = "a ViT over a ResNet, tiny"
paper = "nobody 2026"
source = "recalled"
metric = "ViT/relative_1"
definition = "seconds over seconds"
published = 1e9
tolerance = 0.0
better = "lower"
unit = "times"
config = "configs/vision/compare.py:tiny"

[unbuilt]
title = "a dream"
paper = "nobody 2026"
source = "recalled"
metric = "test/accuracy"
definition = "share of right labels"
published = 1.0
tolerance = 0.0
missing = "a model"
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def tiny(tmp_path, monkeypatch, run):
    """A ledger with one claim that takes seconds; what it writes stays in the test's folder."""
    (tmp_path / "claims.toml").write_text(TINY)
    monkeypatch.setattr(ledger, "CLAIMS", tmp_path / "claims.toml")
    monkeypatch.setattr(ledger, "RESULTS", tmp_path / "results")

    def train(spec, folder, overrides):  # in a process without the tests' checks of shapes
        values = [f"--config.{path}={value}" for path, value in overrides.items()]
        done = run("train", f"--config={spec}", f"--workdir={folder}", *values)
        assert done.code == 0, done.stderr

    monkeypatch.setattr(reproduce, "reproduce", functools.partial(reproduce.reproduce, train=train))
    return tmp_path


@pytest.fixture
def measured(tiny, workdir):
    """The result of the tiny claim, whose runs are made once."""
    return reproduce.reproduce("tiny", workdir, "")


def test_a_claim_is_run_once_checked_and_stored(tiny, workdir):
    claim = find_claim("tiny")
    assert state(claim, read_result("tiny")) == "not yet"
    reproduce.reproduce("tiny", workdir, "")
    result = read_result("tiny")
    measured = [json.loads((workdir / f"tiny/seed_{seed}/results.json").read_text()) for seed in (0, 1)]
    assert list(result.values) == [run["test/exact_match"] for run in measured]
    assert result.reproduced and state(claim, result) == "reproduced"
    assert [row["step"] for row in result.log[1]][-1] == 6 and result.seconds[0] > 0
    assert result.data["train"]["examples"] == 100 and "jax" in result.packages
    assert result.config["model"]["width"] == 16 and "seed" not in result.config
    assert (workdir / "tiny/seed_1/metric.png").stat().st_size > 1000
    written = (workdir / "tiny/seed_0/manifest.json").stat().st_mtime_ns
    reproduce.reproduce("tiny", workdir, "")
    assert (workdir / "tiny/seed_0/manifest.json").stat().st_mtime_ns == written


def test_a_claim_about_latency_is_measured_by_the_benchmark(tiny):
    result = reproduce.reproduce("timed", tiny / "runs", "")
    assert result.reproduced and result.metrics[0]["ViT/milliseconds_1"] > 0 and result.seconds[0] > 0
    assert result.config["reference"] == "ResNet" and result.log == ((),)


def test_other_values_make_other_states(tiny, measured, workdir):
    copied = tiny / "runs"
    shutil.copytree(workdir, copied)
    path = copied / "tiny/seed_0/results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test/exact_match": 0.9}))
    result = reproduce.reproduce("tiny", copied, "")
    assert result.mean == pytest.approx(0.45, abs=0.05) and result.deviation > 0.5
    assert state(find_claim("tiny"), read_result("tiny")) == "missed"

    claims = ledger.CLAIMS.read_text()
    ledger.CLAIMS.write_text(claims.replace("split=length26", "split=length"))
    assert state(find_claim("tiny"), read_result("tiny")) == "stale"
    assert "data.split: 'length26' -> 'length'" in ledger.changes_since(find_claim("tiny"), result)
    with pytest.raises(UserError, match=r"another config .data.split is 'length26' there and 'length' today"):
        reproduce.reproduce("tiny", copied, "")

    ledger.CLAIMS.write_text(claims.replace("[0, 1]", "[1, 0]"))
    (copied / "tiny/seed_1").rename(copied / "tiny/other")
    (copied / "tiny/seed_0").rename(copied / "tiny/seed_1")
    with pytest.raises(UserError, match="seed is 0 there and 1 today"):
        reproduce.reproduce("tiny", copied, "")


@pytest.mark.parametrize(("files", "changed"), [
    ((), False),
    (("research/ledger/results/digits.json",), False),
    (("research/ledger/results/digits.json", "research/models/vit.py"), True),
    (("docs/results.md",), True),
    (('"a/research/mod\\303\\250les.py" "b/research/mod\\303\\250les.py"',), True),
    (("a/research/ledger/results/digits.json b/research/models/digits.json",), True),
])  # fmt: skip
def test_results_of_other_claims_are_no_change_of_the_code(files, changed, tiny, measured, workdir):
    copied = tiny / "changed"
    shutil.copytree(workdir, copied)
    path = copied / "tiny/seed_1/manifest.json"
    manifest = json.loads(path.read_text())
    names = [file if " " in file else f"a/{file} b/{file}" for file in files]
    diffs = [f"diff --git {name}\n--- a\n+++ b\n@@ -1 +1 @@\n-1\n+2\n" for name in names]
    for start in manifest["starts"]:
        start["uncommitted_changes"] = "".join(diffs) or None
    path.write_text(json.dumps(manifest))
    first = json.loads((copied / "tiny/seed_0/manifest.json").read_text())
    first["starts"][0]["uncommitted_changes"] = None
    (copied / "tiny/seed_0/manifest.json").write_text(json.dumps(first))
    assert reproduce.reproduce("tiny", copied, "").uncommitted_changes == changed


@pytest.mark.parametrize(
    ("field", "value"),
    [("mean", 0.5), ("reproduced", False), ("config_fingerprint", "0"), ("values", [0.5, 0.0]), ("name", "other")],
)
def test_a_result_that_contradicts_itself_is_refused(measured, field, value):
    path = ledger.RESULTS / "tiny.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UserError, match=r"tiny.json: .* contradicts the rest"):
        read_result("tiny")


def test_claims_that_are_unknown_or_not_built_are_refused(tiny):
    with pytest.raises(UserError, match="'tiny_' is not a claim: did you mean tiny"):
        find_claim("tiny_")
    with pytest.raises(UserError, match=r"unbuilt cannot be reproduced yet \(a model\)"):
        find_claim("unbuilt")


def test_paths_seed_and_launch_do_not_count_but_every_other_value_does():
    spec = "configs/language/shakespeare.py:size=cpu"
    base = load(spec)
    same = load(spec, {"data.path": "/elsewhere", "seed": "7", "mesh.data": "1", "training.workers": "2"})
    same.expect.tolerance = 9.0
    assert fingerprint(comparable(same)) == fingerprint(comparable(base))
    for path, value in (("optimizer.learning_rate", "0.1"), ("data.validation_fraction", "0.2")):
        assert fingerprint(comparable(load(spec, {path: value}))) != fingerprint(comparable(base))
    translated = comparable(load("configs/translation/wmt14.py", {"data.data_dir": "x"}))
    assert translated.data.to_dict() == {
        "name": "tfds",
        "dataset": "wmt14_translate/de-en",
        "keys": {"source": "en", "target": "de"},
    }
    multi30k = comparable(load("configs/translation/multi30k.py:folder=/elsewhere"))
    assert multi30k.data.to_dict() == {"name": "parallel_text"}


@pytest.mark.parametrize(
    ("better", "good", "bad"),
    [("higher", (0.49, 0.9), (0.48,)), ("lower", (0.51, 0.1), (0.52,)), ("neither", (0.49, 0.51), (0.48, 0.52))],
)
def test_the_tolerance_has_its_side(better, good, bad):
    claim = ledger.Claim("t", "p", "paper", "m", "d", published=0.5, tolerance=0.01, better=better)
    assert all(map(claim.reached_by, good)) and not any(map(claim.reached_by, bad))


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if not claim.missing])
def test_the_config_of_a_claim_loads_and_expects_what_was_published(name):
    claim = CLAIMS[name]
    config = load(*claim.spec("data"))
    assert fingerprint(claim.settings()) == fingerprint(comparable(config))
    assert ("{data}" in str(claim.spec("{data}"))) == bool(claim.data)
    if "expect" in config:
        assert (config.expect.metric, config.expect.value) == (claim.metric, claim.published)


def test_every_stored_result_is_sound_and_the_tables_are_those_of_the_ledger():
    assert reproduce.check(write=False) == []


def test_a_table_that_differs_is_found_and_renewed(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    for page in reproduce.PAGES:
        text = (ROOT / page).read_text()
        (tmp_path / page).write_text(text.replace("99.52 %", "99.99 %"))
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    assert reproduce.check(write=False) == ["README.md", "docs/results.md"]
    assert reproduce.check(write=True) and reproduce.check(write=False) == []
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text("no table")
    with pytest.raises(UserError, match="the marker <!-- results --> is missing"):
        reproduce.check(write=False)


def test_the_command_lists_claims_and_names_the_data_it_needs(run):
    done = run("reproduce", "--list")
    assert done.code == 0 and all(name in done.stdout for name in CLAIMS)
    failed = run("reproduce", "multi30k-tiny")
    assert failed.code == 2 and "multi30k-tiny needs the paper's own BPE files" in failed.stderr
