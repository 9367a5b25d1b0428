"""The live view: what it lists, what it refuses, and that it writes nothing."""

import argparse
import contextlib
import fcntl
import http.client
import json
import os
import threading
import time

import pytest
import uvicorn

from experiments.dashboard import main
from research.errors import UserError
from research.reports import dashboard
from research.reports import page as pages

CONFIG = {"training": {"duration": {"steps": 40}}, "checkpoint": {"best": "validation/accuracy", "mode": "max"}}


def write_run(folder, accuracies, age=0):
    folder.mkdir(parents=True)
    rows = [{"step": 10 * n, "validation/accuracy": value} for n, value in enumerate(accuracies, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for file in folder.iterdir():
        os.utime(file, (time.time() - age,) * 2)
    return folder


@contextlib.contextmanager
def serving(root):
    """`get(path)` of a server for the folder: status and text."""
    server = uvicorn.Server(uvicorn.Config(dashboard.application(root, ["127.0.0.1"]), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def get(path, method="GET", host="127.0.0.1"):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request(method, path, headers={"Host": host})  # the path goes out as it is
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    yield get
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the runs, and `get` of a server for it."""
    root = tmp_path_factory.mktemp("place") / "runs"
    write_run(root / "old", [0.25, 0.75, 0.5], age=1000)
    write_run(root / "group" / "new & <b>", [0.5])
    write_run(root.parent / "secret", [0.125])
    (root / "link").symlink_to(root.parent / "secret")
    (root / "half").mkdir()
    (root / "half" / "config.json").symlink_to(root.parent / "secret" / "config.json")
    with serving(root) as get:
        yield root, get


def test_the_list_has_every_run_the_last_changed_first(site):
    root, get = site
    before = sorted(root.rglob("*"))
    status, text = get("/")
    assert status == 200 and 'http-equiv="refresh" content="5"' in text
    assert text.index("group/new &amp; &lt;b&gt;") < text.index(">old<") and "secret" not in text and "half" not in text
    for told in ("validation/accuracy 0.75", "step 30 of 40", "stopped", "2 runs in"):
        assert told in text
    with (root / "old" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "running" in get("/")[1]
    (root / "old" / ".lock").unlink()
    assert get("/runs/group/new%20%26%20%3Cb%3E")[0] == 200
    assert sorted(root.rglob("*")) == before


def test_a_folder_that_is_a_run_itself_is_listed_by_its_name(tmp_path):
    with serving(write_run(tmp_path / "alone", [0.5])) as get:
        assert '<a href="/runs/">alone</a>' in get("/")[1]
        status, text = get("/runs/")
    assert status == 200 and "0.5" in text


def test_a_page_is_made_anew_only_when_its_run_has_changed(site, monkeypatch):
    root, get = site
    made = []
    monkeypatch.setattr(dashboard, "run_page", lambda records: made.append(1) or pages.run_page(records))
    folder = write_run(root / "fresh", [0.5], age=100)
    first, again = get("/runs/fresh"), get("/runs/fresh")
    assert first == again and first[0] == 200 and len(made) == 1
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "validation/accuracy": 0.625}\n')
    assert "0.625" in get("/runs/fresh")[1] and len(made) == 2


def test_only_rows_of_changed_runs_are_made_anew_however_many_there_are(tmp_path, monkeypatch):
    folders = [write_run(tmp_path / f"run{n:04d}", [0.5], age=1000) for n in range(1200)]
    for deep in ("checkpoints/7/state", "tensorboard"):  # folders of many files, which are not looked into
        write_run(folders[0] / deep / "inner", [0.125])
    listing, read = dashboard.Listing(tmp_path), []
    reader = dashboard.read_run
    monkeypatch.setattr(dashboard, "read_run", lambda *arguments: read.append(1) or reader(*arguments))
    first = listing.page()
    assert first.count("<tr>") == 1201 and len(read) == 1200 and "inner" not in first
    listing.page()
    assert len(read) == 1200
    with (folders[7] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "validation/accuracy": 0.625}\n')
    assert "0.625" in listing.page() and len(read) == 1201


@pytest.mark.parametrize(
    "path",
    [
        "/runs/../secret", "/runs/%2e%2e/secret", "/runs/..%2fsecret", "/runs/old/../../secret", "/runs/%2fetc/passwd",
        "/runs//etc/passwd", "/runs/link", "/runs/half", "/../secret/config.json", "/runs/old/config.json", "/runs/",
        "/runs/old%00", "/runs/..%5csecret", "/runs/%252e%252e/secret",
    ],
)  # fmt: skip
def test_nothing_outside_the_runs_is_served(site, path):
    status, text = site[1](path)
    assert status == 404 and "0.125" not in text


def test_it_only_reads_and_only_for_its_own_name(site):
    _, get = site
    assert get("/", method="POST")[0] == get("/runs/old", method="DELETE")[0] == 405
    assert get("/", host="evil.example")[0] == 400


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_machines_need_permission(tmp_path, monkeypatch, host):
    started = []
    monkeypatch.setattr(uvicorn, "run", lambda *_, **options: started.append(options["host"]))
    arguments = {"runs": str(tmp_path), "port": 8000}
    with pytest.raises(UserError, match=f"--host {host} lets other machines read the runs: add --public"):
        main(argparse.Namespace(**arguments, host=host, public=False))
    assert started == []
    main(argparse.Namespace(**arguments, host=host, public=True))
    main(argparse.Namespace(**arguments, host="127.0.0.1", public=False))
    assert started == [host, "127.0.0.1"]


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        main(argparse.Namespace(runs=str(tmp_path / "none"), port=8000, host="127.0.0.1", public=False))
