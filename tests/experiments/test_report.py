"""The report page: what a person reads of a run, whatever the folder looks like."""

import argparse
import base64
import errno
import fcntl
import json
import os
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from experiments import report
from research.errors import UserError
from research.reports import live, stored
from research.reports.charts import groups, learning_curves, sweep_charts
from research.reports.page import run_page, sweep_page
from research.reports.records import read_run
from research.reports.samples import layer, png, within

CONFIG = {"model": {"name": "gpt"}, "task": {"name": "language_modeling"}, "data": {"name": "text_file"}, "seed": 0}


def write_run(folder, rows=(), **files):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, value in {"config": CONFIG, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def row(step, loss, rate=2.0):
    speed = {"time/steps_per_second": rate, "time/examples_per_second": 8 * rate}
    return {"step": step, "train/loss": loss, **speed}


class Outline(HTMLParser):
    """The visible text of a page, its open elements and the JSON of its charts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.charts, self._script = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._script = dict(attributes).get("type", "code") if tag == "script" else None
        if tag in ("link", "iframe") or any(str(value).startswith("http") for _, value in attributes):
            raise AssertionError(f"the page asks for something else: {tag} {attributes}")

    def handle_endtag(self, tag):
        self._script = None

    def handle_data(self, data):
        if self._script == "application/json":
            self.charts.append(json.loads(data))
        elif self._script is None and self.tags[-1:] != ["style"]:
            self.words.append(data)


def words_of(text):
    return " ".join(Outline(text).words)


def test_a_finished_run_tells_its_results_time_and_origin(tmp_path):
    timing = {"seconds": 100.0, "evaluation_seconds": 10.0, "checkpoint_seconds": 5.0, "compilation_seconds": 5.0}
    starts = [{"command": "python -m experiments.train --config=x.py", "commit": "abc123", "devices": ["TPU v9"]}]
    folder = write_run(
        tmp_path / "run",
        [row(10, 2.0), {"step": 10, "validation/loss": 1.75}],
        results={"test/loss": 1.625},
        timing=timing | {"data_wait_percent": 25.0},
        manifest={"seed": 0, "starts": starts, "data": {"test": {"examples": 1234}}},
        report={"samples": [], "attention": [], "memory": {"device": 3 * 2**30}, "split": "test", "step": 10},
    )
    text = run_page([read_run(folder)])
    words = words_of(text)
    for told in ("finished", "1.625", "abc123", "TPU v9", "1,234 examples", "3.00 GiB", "20 s · 20.0%", "60 s · 60.0%"):
        assert told in words
    assert 'http-equiv="refresh"' not in text and len(text) < 8e6


def test_a_running_run_reloads_itself_and_a_stopped_one_does_not(tmp_path):
    folder = write_run(tmp_path / "run", [row(10, 2.0)])
    (folder / ".lock").touch()
    assert read_run(folder).state == "stopped" and 'http-equiv="refresh"' not in run_page([read_run(folder)])
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_run(folder).state == "running" and 'http-equiv="refresh"' in run_page([read_run(folder)])
    (folder / "results.json").write_text("{}")
    assert read_run(folder).state == "finished"


def test_texts_stay_texts(tmp_path):
    evil = '</script><script>alert("x")</script> & <b>"\'  مرحبا 你好'
    sample = {"source": evil, "answer": evil, "reference": evil, "chrf": 50.0}
    look = {
        "kind": "text",
        "title": evil,
        "tokens": {"a": [evil]},
        "layers": [layer("x", np.ones((1, 1, 1)), "a", "a")],
    }
    shown = {"samples": [sample], "attention": [look], "memory": {}, "split": evil, "step": 1}
    folder = write_run(tmp_path / "<i>run", [row(1, 1.0) | {f"train/{evil}": 1.0}], report=shown)
    text = run_page([read_run(folder)])
    outline = Outline(text)
    assert outline.tags.count("i") == 0 and outline.tags.count("b") == 0
    assert sum(chart[0]["title"] == evil for chart in outline.charts if isinstance(chart, list)) == 1
    assert '<script>alert("x")' not in text and 'dd dir=auto class="answer"' in text
    assert "".join(outline.words).count(evil) >= 3
    assert run_page([read_run(write_run(tmp_path / "b", report=shown | {"split": "\ud800"}))]).encode()


def test_a_long_log_makes_a_page_of_modest_size_that_keeps_every_spike(tmp_path):
    folder = tmp_path / "run"
    losses = np.random.default_rng(0).normal(size=100_000)
    losses[4321] = 99.0
    write_run(folder, (row(step, loss) for step, loss in enumerate(losses.tolist(), 1)))
    text = run_page([read_run(folder)])
    assert len(text) < 10e6
    chart = next(chart for chart in Outline(text).charts if chart["title"] == "loss")
    assert len(chart["data"][0]["x"]) <= 2000 and 99.0 in chart["data"][0]["y"]


def test_damaged_and_missing_files_still_make_a_page(tmp_path):
    folder = write_run(tmp_path / "run", [row(1, 2.0), {"step": 2, "train/loss": "nan"}, row(3, 1.0)])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('7\n[]\n{"no": 1}\n\x00\x00\n{"step": 4, "train/lo')
    for name in ("config", "results", "timing", "manifest", "report"):
        (folder / f"{name}.json").write_text('{"cut')
    words = words_of(run_page([read_run(folder)]))
    assert "step 3" in words and "cut" not in words
    (folder / "config.json").unlink()
    (loss,) = [chart for chart in learning_curves([read_run(folder)]) if chart["title"] == "loss"]
    assert loss["data"][0]["y"] == [2.0, None, 1.0]
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="holds no run"):
        read_run(folder)


def test_seeds_become_a_mean_with_a_band(tmp_path):
    values = {0: [4.0, 2.0], 1: [2.0, 4.0], 2: [3.0, 9.0]}
    runs = [
        write_run(
            tmp_path / f"r_{s}", [row(n, v) for n, v in zip((10, 20), vs, strict=True)], config=CONFIG | {"seed": s}
        )
        for s, vs in values.items()
    ]
    runs.append(write_run(tmp_path / "other", [row(10, 1.0)], config=CONFIG | {"model": {"name": "rnn"}}))
    records = [read_run(run) for run in runs]
    assert {name: len(members) for name, members in groups(records).items()} == {"r (3 seeds)": 3, "other": 1}
    low, high, mean, other = learning_curves(records)[0]["data"]
    assert mean["y"] == [3.0, 5.0] and other["y"] == [1.0]
    deviation = np.std([2.0, 4.0, 9.0], ddof=1)
    np.testing.assert_allclose([low["y"], high["y"]], [[2, 5 - deviation], [4, 5 + deviation]], rtol=1e-5)
    assert high["fill"] == "tonexty" and mean["x"] == [10, 20]
    assert mean["customdata"] == [(80.0, 5.0), (160.0, 10.0)]  # 8 examples a step, 2 steps a second


def test_sweeps_are_drawn_from_their_table(tmp_path):
    header = "trial,state,seed,value,optimizer.learning_rate,model.norm,data.size,seconds,folder,reason\n"
    rows = (
        "0,complete,0,0.0,0.001,pre,4,1,trials/0,\n1,complete,0,0.7,0.1,post,4,1,trials/1,\n2,failed,0,,1,pre,4,1,,\n"
    )
    write_run(tmp_path / "sweep" / "trials" / "0", [row(1, 2.0)])
    write_run(tmp_path / "outside", [row(1, 2.0) | {"train/secret": 1}])
    (tmp_path / "sweep" / "sweep.csv").write_text(header + rows + "3,complete,0,nan,0.1,pre,4,1,../outside,\n")
    outline = Outline(sweep_page(tmp_path / "sweep"))
    titles = [chart["title"] for chart in outline.charts]
    assert titles[:4] == ["parallel coordinates", "value over optimizer.learning_rate", "value over model.norm", "loss"]
    assert "secret" not in titles
    lines, rate, norm = outline.charts[:3]
    assert [trace["y"] for trace in lines["data"]] == [[0, 1, 0], [1, 0, 1]]
    assert rate["layout"]["xaxis"]["type"] == "log" and rate["data"][0]["y"] == [0.0, 0.7]
    assert norm["data"][0]["x"] == ["pre", "post"]
    for chart in outline.charts:
        go.Figure(chart["data"], chart["layout"])  # plotly checks every name and value
    assert sweep_charts([]) == []


def test_attention_is_kept_to_a_byte_a_weight_within_a_limit():
    weights = np.random.default_rng(0).dirichlet(np.ones(50), size=(4, 50)).astype(np.float32)
    kept = layer("encoder/layer_0/self_attention", weights, "source", "source")
    stored = (np.frombuffer(base64.b64decode(kept["weights"]), np.uint8).reshape(kept["shape"]) / 255) ** 2
    np.testing.assert_allclose(stored, weights, atol=0.004)
    looks = [{"title": str(n), "layers": [kept | {"path": str(path)} for path in range(12)]} for n in range(3)]
    assert [look["title"] for look in within(looks, 240_000)] == ["0", "1"]
    (thinned,) = within(looks, 40_000)
    assert [one["path"] for one in thinned["layers"]] == ["0", "4", "7", "11"]
    assert within([{"title": "no attention", "layers": []}], 10) == []


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, True),
        ({"tokens": {"written": ["a"]}}, False),
        ({"tokens": {"written": "ab"}}, False),
        ({"special": 2}, False),
        ({"grid": [2, 3]}, False),
    ],
)
def test_words_that_look_at_an_image_are_shown_where_they_fit(changes, shown, tmp_path):
    """Two words, 2 x 2 patches behind a class token, of which words do not know."""
    layers = [
        layer("image/layer_0/self_attention", np.full((1, 5, 5), 0.2), "patches", "patches"),
        layer("decoder/layer_0/cross_attention", np.full((1, 2, 4), 0.25), "written", "patches"),
    ]
    look = {"kind": "image", "title": "a b", "image": png(np.zeros((4, 4, 3), np.uint8)), "grid": [2, 2], "special": 1}
    look |= {"tokens": {"written": ["a", "b"]}, "layers": layers} | changes
    (tmp_path / "report.json").write_text(json.dumps({"attention": [look]}))
    assert len(stored.shown(tmp_path / "report.json", tmp_path, [])["attention"]) == shown


def test_images_are_embedded_losslessly(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    (tmp_path / "x.png").write_bytes(base64.b64decode(png(pixels).partition(",")[2]))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), pixels)
    assert png(pixels[:, :, :1]).startswith("data:image/png;base64,")


def test_the_live_page_follows_the_run_and_tells_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "REFRESH_SECONDS", 0.01)
    folder = write_run(tmp_path / "run", [row(1, 2.0)])
    page = folder / "report.html"
    with pytest.raises(RuntimeError, match="crash"), live.live_report(folder):
        while not page.exists():
            time.sleep(0.01)
        assert "running" in words_of(page.read_text())
        raise RuntimeError("crash")
    assert "stopped" in words_of(page.read_text()) and "refresh" not in page.read_text()[:1000]
    with live.live_report(folder):
        (folder / "results.json").write_text('{"test/loss": 1.5}')
    assert "finished" in words_of(page.read_text())


def test_a_page_that_cannot_be_written_is_one_warning(tmp_path, monkeypatch, capsys):
    folder = write_run(tmp_path / "run", [row(1, 2.0)])
    (folder / "report.html.partial").mkdir()
    with live.live_report(folder):
        pass
    assert capsys.readouterr().err.count("\n") == 1


def test_training_writes_the_page_with_samples_and_attention(run, tmp_path):
    folder = tmp_path / "run"
    config = ("--config=configs/translation/phrasebook.py:tiny", "--config.seed=1")
    assert run("train", *config, f"--workdir={folder}").code == 0
    words = words_of((folder / "report.html").read_text())
    assert "finished" in words and "chrF" in words and "From the test split, at step 6" in words
    assert re.search(r"seed\W+0\W+1", words)  # the changed value, before and after
    shown = json.loads((folder / "report.json").read_text())
    (first, *_) = shown["attention"]
    queries = {one["path"]: (one["shape"][1], one["shape"][2]) for one in first["layers"]}
    sizes = {side: len(tokens) for side, tokens in first["tokens"].items()}
    assert queries["decoder/layer_0/cross_attention"] == (sizes["target_output"], sizes["source"])
    assert shown["memory"]["process"] > 1e8
    (folder / "report.json").unlink()  # as of a run that was stopped
    again = tmp_path / "again.html"
    assert run("report", folder, f"--output={again}").stdout == f"the report is {again}\n"
    assert not (folder / "report.json").exists() and "<dl class=sample>" not in again.read_text()
    done = run("report", folder, "--samples", f"--output={again}")
    assert done.code == 0 and done.stdout.startswith(f"reading the data of {folder}: data.language='fr', data.name=")
    assert json.loads((folder / "report.json").read_text())["samples"] == shown["samples"]
    assert "<dl class=sample>" in again.read_text() and "chrF" in words_of(again.read_text())


def test_a_page_names_no_code_to_run(tmp_path):
    """Files that a config parser was led to by a manifest: both readings of the first ":" and of ".py:"."""
    root = Path(report.__file__).parents[1]
    marker, folder = tmp_path / "marker", tmp_path / "run"
    code = f"open({str(marker)!r}, 'w').close()\nraise SystemExit"
    (folder / "a:b").mkdir(parents=True)
    (folder / "a").symlink_to(root / "configs/vision")
    (folder / "a:b/evil.py").write_text(code)
    (folder / "evil.py").write_text(code)
    (folder / "digits.py:x.py").write_text(code)
    specs = (f"{folder}/a:b/evil.py", f"{folder}/a:b/evil.py:tiny", f"{folder}/digits.py:x.py", f"{folder}/evil.py")
    for spec in specs:
        start = {"command": f"python -m experiments.train --config={spec} --workdir=x", "config": spec}
        write_run(folder, [row(1, 2.0)], manifest={"starts": [start | {"changes": [["seed", 0, 1]]}]})
        arguments = {"runs": [str(folder)], "output": str(tmp_path / "page.html"), "samples": False}
        report.main(argparse.Namespace(**arguments))
        assert not marker.exists() and re.search(r"seed\W+0\W+1", words_of((tmp_path / "page.html").read_text()))


@pytest.mark.parametrize(("changes", "told"), [
    ([["seed", "(absent)", 1], ["model.<b>", [1, 2], None]], r"changed\W+x\.py:tiny\W+this run\W+model|seed\W+1"),
    ([], r"As in\W+x\.py:tiny"),
])  # fmt: skip
def test_stored_changes_are_shown_as_they_stand(tmp_path, changes, told):
    start = {"config": "x.py:tiny", "changes": changes}
    text = run_page([read_run(write_run(tmp_path / "run", [row(1, 2.0)], manifest={"starts": [start]}))])
    assert re.search(told, words_of(text)) and "<b>" not in text


def test_a_page_reads_no_data_that_a_run_names(tmp_path, capsys):
    """A config of somebody else that names a file of the reader as its data."""
    (tmp_path / "diary.txt").write_text("a secret of mine\n" * 100)
    data = {"name": "text_file", "path": str(tmp_path / "diary.txt"), "\x1b[2J": 1}
    folder = write_run(tmp_path / "run", [row(1, 2.0)], config=CONFIG | {"data": data})
    (folder / "checkpoints").mkdir()
    report.main(argparse.Namespace(runs=[str(folder)], output=None, samples=False))
    assert "a secret" not in (folder / "report.html").read_text().partition("The whole config")[0]
    assert capsys.readouterr().out == f"the report is {folder / 'report.html'}\n"
    report.main(argparse.Namespace(runs=[str(folder)], output=None, samples=True))  # it names the data before it reads
    told = capsys.readouterr()
    assert told.out.startswith(f"reading the data of {folder}: data.name='text_file', data.path='{tmp_path}/diary.txt'")
    assert "\x1b" not in told.out and "warning: the page has no new samples" in told.err


def test_a_page_is_not_written_through_a_link(tmp_path):
    folder = write_run(tmp_path / "run", [row(1, 2.0)])
    (tmp_path / "mine").write_text("kept")
    for name in ("report.html", "report.html.partial"):
        (folder / name).symlink_to(tmp_path / "mine")
    report.main(argparse.Namespace(runs=[str(folder)], output=None, samples=False))
    assert (tmp_path / "mine").read_text() == "kept" and not (folder / "report.html").is_symlink()


def test_runs_of_one_name_stand_beside_each_other(tmp_path):
    other = CONFIG | {"model": {"name": "rnn"}}
    runs = [write_run(tmp_path / "a/run", [row(1, 2.0)]), write_run(tmp_path / "b/run", [row(1, 3.0)], config=other)]
    records = [read_run(run) for run in runs]
    assert list(groups(records)) == ["a/run", "b/run"]
    assert [trace["y"] for trace in learning_curves(records)[0]["data"]] == [[2.0], [3.0]]


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_the_page_is_written_in_any_locale(run, tmp_path, locale):
    look = {"kind": "text", "title": "t", "tokens": {"a": ["x"]}, "layers": [layer("x", np.ones((1, 1, 1)), "a", "a")]}
    shown = {"samples": [], "attention": [look], "memory": {}, "split": "test", "step": 1}
    folder = write_run(tmp_path / "run", [row(1, 2.0)], config=CONFIG | {"note": "\u4f60\u597d"}, report=shown)
    done = run("report", folder, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL=locale)
    assert done.code == 0, done.stderr
    assert "\u4f60\u597d" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_run_whose_folder_is_deleted_ends_well(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live, "REFRESH_SECONDS", 0.01)
    folder = write_run(tmp_path / "run", [row(1, 2.0)])
    with live.live_report(folder):
        while not (folder / "report.html").exists():
            time.sleep(0.01)
        shutil.rmtree(folder)
        time.sleep(0.1)
    assert not folder.exists() and capsys.readouterr().err.count("\n") <= 1


def test_a_full_disk_is_one_warning_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live, "REFRESH_SECONDS", 0.01)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(live, "write_text", full)
    with live.live_report(write_run(tmp_path / "run", [row(1, 2.0)])):
        time.sleep(0.2)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "No space left on device" in told


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["."], "holds no run"),
        ([".", "."], "add --output=FILE"),
        ([".", "sweep"], "sweep is a sweep, whose page shows it alone"),
    ],
)
def test_wrong_folders_are_one_sentence(tmp_path, monkeypatch, runs, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/sweep.csv").write_text("")
    with pytest.raises(UserError, match=sentence):
        report.main(argparse.Namespace(runs=runs, output=None, samples=False))
