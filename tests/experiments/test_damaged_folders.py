"""Pages of folders in which one file is anything at all: one sentence or the undisturbed result, and all other runs."""

import json
import os
import shutil
import signal

import pytest
from starlette.testclient import TestClient

from research.errors import UserError
from research.reports import dashboard
from research.reports import page as pages
from research.reports.page import run_page, sweep_page
from research.reports.records import FILES, read_run
from research.reports.sections import results, samples

SECRET = "a-secret-of-somebody-else"
OUTSIDE = {
    "config.json": {"model": {"name": SECRET}, "task": {"name": "x"}, "data": {"name": "y"}},
    "metrics.jsonl": {"step": 1, f"train/{SECRET}": 1.0},
    "results.json": {f"test/{SECRET}": 1.0},
    "timing.json": {"seconds": 98765.0},
    "manifest.json": {"starts": [{"command": SECRET}]},
    "report.json": {"samples": [{"prompt": SECRET, "answer": SECRET}], "split": SECRET, "step": 1},
    ".lock": SECRET,
}
TEXTS = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "object": b"{}",
    "nan": b'{"step": NaN, "test/accuracy": NaN, "seconds": NaN}',
    "number": b"5",
    "text": b'"text"',
    "binary": bytes(range(256)) * 4,
    "huge numbers": b'{"step": 1Z, "seconds": 1e999, "test/accuracy": 1Z, "memory": {"a": 1e999}}'.replace(
        b"Z", b"0" * 900
    ),
    "many digits": b'{"step": %s}' % (b"9" * 10_000),
    "deep": b'{"training":' * 50_000 + b"1" + b"}" * 50_000,
    "less deep": b'{"training":' * 600 + b"1" + b"}" * 600,
    "surrogate": b'{"step": 1, "\\ud800": 1, "model": {"name": "\\ud800"}}',
    "numbers for sections": b'{"training": 5, "checkpoint": 5, "model": 5, "starts": 5, "samples": 5, "data": 5}',
    "lists for sections": b'{"training": {"duration": [1]}, "checkpoint": [], "starts": [[]], "data": {"a": []}}',
    "texts for numbers": b'{"training": {"duration": {"steps": "many"}}, "checkpoint": {"best": 7, "mode": []}, '
    b'"seconds": "long", "step": "one", "starts": [{"devices": 5, "packages": [1], "changes": [5], "config": 5}]}',
    "samples of other shapes": b'{"samples": [5, {"image": 5}, {"answer": null}, {"image": "http://x/y.png", "label": '
    b'"a", "reference": "b", "probability": 1}], "attention": [5, {"kind": "text"}, {"kind": "image", "layers": []}, '
    b'{"kind": "text", "title": "t", "tokens": {"a": ["x"]}, "layers": [{"path": "p", "shape": [1, 2, 2], "rows": "a",'
    b' "columns": "a", "weights": ""}]}], "memory": {"a": "b"}, "split": 5, "step": []}',
}
DAMAGES = (*TEXTS, "truncated", "flipped", "folder", "pipe", "link out", "link to nothing", "link to itself", "missing")
MINE, ITS = 0.123456, 0.654321


@pytest.fixture
def deadline():
    """A test that waits for a pipe fails instead."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(100)
    yield
    signal.alarm(0)


def damage(path, how, outside):
    """Puts something else in the place of a file."""
    content = path.read_bytes() if path.is_file() else b"process 1"
    path.unlink(missing_ok=True)
    if how in TEXTS:
        path.write_bytes(TEXTS[how])
    elif how == "truncated":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif how == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0x55]) + content[middle + 1 :])
    elif how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "link out":
        (outside / path.name).write_text(json.dumps(OUTSIDE[path.name]) + "\n")
        path.symlink_to(outside / path.name)
    elif how.startswith("link"):
        path.symlink_to(path if how == "link to itself" else outside / "nothing")


def copy(run, place, accuracy, steps):
    """A run's folder without its checkpoints, of another length than other copies, with results to know it by."""
    shutil.copytree(run, place, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", "report.html"))
    config = json.loads((place / "config.json").read_text())
    config["training"]["duration"] = {"steps": steps}
    (place / "config.json").write_text(json.dumps(config))
    (place / "results.json").write_text(json.dumps({"test/accuracy": accuracy}))
    return place


def row_of(text, name):
    return next((row.partition("</tr>")[0] for row in text.split("<tr>") if f"/runs/{name}" in row), None)


@pytest.mark.parametrize("name", [*FILES, ".lock"])
def test_a_damaged_file_is_a_sentence_and_hides_nothing_else(trained, tmp_path, monkeypatch, deadline, name):
    monkeypatch.setattr(pages, "get_plotlyjs", lambda: "")  # 5 MB that take most of the time
    run, root = trained("configs/vision/digits.py:tiny"), tmp_path / "runs"
    good = copy(run, root / "good", MINE, 7)
    client = TestClient(dashboard.application(root, ["*"]))
    expected = row_of(client.get("/").text, "good")
    assert "step " in expected
    for how in DAMAGES:
        bad = copy(run, root / "bad", ITS, 8)
        if name == ".lock":  # which its holder empties
            (bad / name).write_text("process 1 on a machine\n")
        damage(bad / name, how, tmp_path)
        if name == ".lock":  # nobody looks for the lock of a run with results
            (bad / "results.json").rename(bad / "batch.json")
        told = []
        for runs in ([bad], [good, bad], [bad, good]):
            try:
                told.append(run_page([read_run(one) for one in runs]))
            except UserError as error:
                assert "\n" not in str(error), how
                continue
            assert name in ("results.json", ".lock") or "0.65432" in told[-1], how
            assert good not in runs or ("0.12346" in told[-1] and "<h2>Learning curves" in told[-1]), how
        index, of_good, of_bad = (client.get(path) for path in ("/", "/runs/good", "/runs/bad"))
        assert index.status_code == of_good.status_code == 200 and row_of(index.text, "good") == expected, how
        assert "0.12346" in of_good.text and row_of(index.text, "bad"), how
        assert of_bad.status_code in (200, 404, 500) and of_bad.text, how
        for text in (*told, index.text, of_bad.text):
            assert SECRET not in text and "27.4 h" not in text and "Traceback" not in text, how
        shutil.rmtree(bad)
        assert client.get("/runs/bad").status_code == 404 and row_of(client.get("/").text, "good") == expected


@pytest.mark.parametrize(("name", "sentence"), [
    ("config.json", "config.json is not JSON"), ("results.json", "results.json is not JSON"),
    ("metrics.jsonl", "metrics.jsonl: 1 line cannot be read"), ("report.json", "report.json is not JSON"),
    ("report.json", "report.json: split, step cannot be shown"), ("report.json", "1 of 1 samples cannot be shown"),
])  # fmt: skip
def test_what_is_not_shown_is_said(trained, tmp_path, name, sentence):
    folder = copy(trained("configs/vision/digits.py:tiny"), tmp_path / "run", ITS, 8)
    wrong = '{"split": 5, "step": "x", "samples": [5]}'
    (folder / name).write_text(wrong if "cannot be shown" in sentence else "{cut\n")
    text = run_page([read_run(folder)])
    assert "Not shown: " in text and sentence in text and str(tmp_path) not in text


HEAD = "trial,state,seed,value,model.width,seconds,folder,reason\n"
ROWS = "0,complete,0,0.25,4,1,trials/0,\n1,complete,0,0.5,8,1,trials/1,\n"


@pytest.mark.parametrize(("content", "sentence"), [
    (HEAD + ROWS + f"2,complete,0,0.5,8,1,{'x' * 200_000},\n", "field larger than field limit"),
    (HEAD + ROWS + "2,complete,0,0.5,8,1,a\0b,\n\0,\0\n", None),
    (",".join(f"c{n}" for n in range(1_000_000)) + "\n" + ",".join(["1"] * 1_000_000) + "\n", "60 columns are shown"),
    (HEAD + ROWS + "2,complete,0,0.5\n3,complete,0,0.5,8,1,..,x,y,z,more\n,,\n", None),
    (HEAD + "0,complete,0,1e308,-1e308,1,.,\n1,complete,0,-1e308,1e308,1,/,\n2,complete,,1e999,nan,,,\n", None),
    ("value,value,<script>\n1,2,<b>\n3,4,\ud7ff\n", None),
    ("", None),
])  # fmt: skip
def test_tables_of_sweeps_may_hold_anything(tmp_path, deadline, content, sentence):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "sweep.csv").write_text(content, encoding="utf-8")
    try:
        text = sweep_page(sweep)
    except UserError as error:
        text = str(error)
    assert "<script>\n" not in text and "NaN" not in text.partition("plotly")[0]
    assert sentence is None or sentence in text


def test_sweeps_show_nothing_from_elsewhere(tmp_path, deadline):
    """Trials, tables and pictures that are links, and columns that lead out."""
    log = json.dumps({"step": 1, f"train/{SECRET}": 1.0})
    for place in ("elsewhere", "sweep/trials/1"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "metrics.jsonl").write_text(log.replace(SECRET, "mine" if "sweep" in place else SECRET))
    (tmp_path / "elsewhere/sweep.csv").write_text(HEAD + ROWS.replace("0.25", SECRET))
    (tmp_path / "elsewhere/importance.png").write_text(SECRET)
    sweep = tmp_path / "sweep"
    (sweep / "trials/0").symlink_to(tmp_path / "elsewhere")
    (sweep / "trials/2").mkdir()
    (sweep / "trials/2/metrics.jsonl").symlink_to(tmp_path / "elsewhere/metrics.jsonl")
    table = ROWS + "".join(f"{n},complete,0,0.5,8,1,{place},\n" for n, place in enumerate(
        ("trials/2", "../elsewhere", tmp_path / "elsewhere", "trials/1/../../../elsewhere"), 2
    ))  # fmt: skip
    (sweep / "sweep.csv").write_text(HEAD + table)
    (sweep / "importance.png").symlink_to(tmp_path / "elsewhere/importance.png")
    text = sweep_page(sweep)
    assert SECRET not in text and "mine" in text and "Importance" not in text
    client = TestClient(dashboard.application(tmp_path / "sweep", ["*"]))
    assert SECRET not in client.get("/").text + client.get("/runs/").text
    (sweep / "sweep.csv").unlink()
    (sweep / "sweep.csv").symlink_to(tmp_path / "elsewhere/sweep.csv")
    with pytest.raises(UserError, match=r"sweep\.csv leads out of sweep"):
        sweep_page(sweep)
    (sweep / "sweep.csv").unlink()
    os.mkfifo(sweep / "sweep.csv")
    with pytest.raises(UserError, match=r"sweep\.csv is not a file"):
        sweep_page(sweep)


def test_runs_that_disappear_are_gone_and_harm_no_other(trained, tmp_path, monkeypatch):
    """Deleted between being listed and being read, in the list and on its page."""
    run, root = trained("configs/vision/digits.py:tiny"), tmp_path / "runs"
    copy(run, root / "good", MINE, 7), copy(run, root / "bad", ITS, 8)
    client = TestClient(dashboard.application(root, ["*"]))
    read = dashboard.read_run

    def deleting(folder, *arguments):
        if folder.name == "bad":
            shutil.rmtree(folder, ignore_errors=True)
        return read(folder, *arguments)

    monkeypatch.setattr(dashboard, "read_run", deleting)
    index = client.get("/")
    assert index.status_code == 200 and "step " in row_of(index.text, "good")
    assert "bad cannot be shown" in row_of(index.text, "bad")
    copy(run, root / "bad", ITS, 8)
    assert client.get("/runs/bad").status_code == 404


def test_a_run_of_links_is_none(trained, tmp_path):
    run = trained("configs/vision/digits.py:tiny")
    (tmp_path / "runs/links").mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / "runs/links" / name).symlink_to(run / name)
    with pytest.raises(UserError, match="holds no run"):
        read_run(tmp_path / "runs/links")
    client = TestClient(dashboard.application(tmp_path / "runs", ["*"]))
    assert "0 runs in" in client.get("/").text and client.get("/runs/links").status_code == 404


def test_what_nobody_has_thought_of_is_told_of_that_run_alone(trained, tmp_path, monkeypatch):
    run = trained("configs/vision/digits.py:tiny")
    copy(run, tmp_path / "good", MINE, 7), copy(run, tmp_path / "bad", ITS, 8)
    read = dashboard.read_run

    def failing(folder, *arguments):
        if folder.name == "bad":
            raise RuntimeError("a fault of ours")
        return read(folder, *arguments)

    monkeypatch.setattr(dashboard, "read_run", failing)
    client = TestClient(dashboard.application(tmp_path, ["*"]))
    index, bad = client.get("/"), client.get("/runs/bad")
    assert index.status_code == 200 and "a fault of ours" in row_of(index.text, "bad")
    assert "step " in row_of(index.text, "good") and client.get("/runs/good").status_code == 200
    assert bad.status_code == 500 and bad.text == "bad cannot be shown: RuntimeError: a fault of ours"


@pytest.mark.parametrize("section", [results, samples])
def test_a_section_that_fails_takes_none_with_it(trained, tmp_path, monkeypatch, section):
    run = trained("configs/vision/digits.py:tiny")
    records = [read_run(copy(run, tmp_path / name, *its)) for name, its in (("bad", (ITS, 8)), ("good", (MINE, 7)))]

    def failing(given):
        if any(one.name == "bad" for one in (given if isinstance(given, list) else [given])):
            raise RuntimeError("of this run alone")
        return section(given)

    monkeypatch.setattr(pages.sections, section.__name__, failing)
    text = run_page(records)
    assert "what is stored is damaged (RuntimeError: of this run alone)" in text
    assert "0.12346" in text and text.count("<h2>") >= 5
    with TestClient(dashboard.application(tmp_path, ["*"])) as client:
        assert client.get("/runs/bad").status_code == client.get("/runs/good").status_code == 200
