"""Every command with a folder whose name holds all that shells, URLs, patterns and pages read as something else."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from research.data.image_folder import ImageFolder
from tests.experiments.test_bad_images import config_of, write_images
from tests.experiments.test_dashboard import serving

ROOT = Path(__file__).resolve().parents[2]
ODD = "-a '\"`[1]{x}*?\\gs:s3:%41%#&;|$HOME<b> ü\u2603😀e\u0301\u202e~\n" + "x" * 100 + "."

PROGRAM = textwrap.dedent("""
    import json, runpy, sys
    for name, *arguments in json.loads(sys.argv.pop()):
        sys.argv[1:] = arguments
        print("COMMAND", name, flush=True)
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
""")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder of that name with images in it, a run on them, and what all commands printed; one process for all."""
    place = tmp_path_factory.mktemp("odd")
    config = config_of(write_images(place / "images"))
    folder = place / ODD
    folder.mkdir()
    (place / "images").rename(folder / "images")
    (place / "tmp").mkdir()
    (folder / "link").symlink_to("run")
    run, data = folder / "run", f"--config.data.path={folder / 'images'}"
    image = str(folder / "images" / "cat" / "0.png")
    other = ["--config.training.duration.steps=2", data]
    tuned = place / "config_tuned.py"
    text = Path(config.removeprefix("--config=")).read_text()
    tuned.write_text(text.replace("    return", "    config.transfer = ConfigDict({'source': ''})\n    return"))
    commands = [
        ["inspect", config, data],
        ["doctor", config, data],
        ["train", config, data, f"--workdir={run}"],
        ["train", config, data, f"--workdir={folder / 'link'}"],
        ["evaluate", f"--workdir={folder}/images/../run"],
        ["predict", f"--workdir={run}", image],
        ["pictures", f"--workdir={run}", image],
        ["report", str(run)],
        ["train", f"--config={tuned}", *other, f"--config.transfer.source={run}", f"--workdir={folder / 'tuned'}"],
        ["report", str(run), str(folder / "tuned"), f"--output={folder / 'both.html'}"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        cwd=ROOT, env=os.environ | {"TMPDIR": str(place / "tmp")}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return folder, done.stdout


def test_every_command_works_there(odd):
    folder, printed = odd
    parts = dict(part.split("\n", 1) for part in printed.split("COMMAND ")[1:])
    assert list(parts) == ["inspect", "doctor", "train", "evaluate", "predict", "pictures", "report"]
    assert (folder / "run" / "results.json").exists() and (folder / "tuned" / "results.json").exists()
    assert "this run is complete" in printed and parts["predict"].split()[0] in ("cat", "dog")


def test_nothing_lies_beside_it(odd):
    folder, _ = odd
    assert set(os.listdir(folder.parent)) - {"__pycache__"} == {"config.py", "config_tuned.py", "tmp", ODD}
    assert sorted(os.listdir(folder)) == ["both.html", "images", "link", "run", "tuned"]
    assert len(os.listdir(folder.parent / "tmp")) == 2  # a link for each run's checkpoints, whatever way it was opened


def test_the_live_view_lists_and_shows_it(odd):
    folder, _ = odd
    with serving(folder.parent) as get:
        status, text = get("/")
        assert status == 200 and "<b> ü" not in text
        links = [part.split('"')[0] for part in text.split('href="')[1:]]
        pages = [get(link) for link in links if "run" in link]
    assert pages and all(status == 200 for status, _ in pages), (links, pages)


def test_a_home_in_options_and_paths(tmp_path, run):
    write_images(tmp_path / "home" / "images")
    config = config_of(tmp_path / "home" / "images")
    data = "--config.data.path=~/images"
    done = run("train", config, data, "--workdir=~/run", "--config.training.duration.steps=1",
               "--config.training.evaluate_every.steps=1", HOME=str(tmp_path / "home"))  # fmt: skip
    assert done.code == 0, done.stderr
    assert (tmp_path / "home" / "run" / "results.json").exists() and not (ROOT / "~").exists()
    assert json.loads((tmp_path / "home" / "run" / "config.json").read_text())["data"]["path"] == "~/images"


@pytest.mark.parametrize("name", ["a b.png", "[1].png", "100%.png", "ü😀.png", "-x.png"])
def test_pictures_of_any_name(name, tmp_path):
    (tmp_path / ODD / "cat").mkdir(parents=True)
    (tmp_path / ODD / "dog").mkdir()
    for label, value in (("cat", 7), ("dog", 9)):
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(tmp_path / ODD / label / name)
    images = ImageFolder(str(tmp_path / ODD), validation_fraction=0.0).examples("train")
    assert [int(images[index]["image"][0, 0, 0]) for index in range(2)] == [7, 9]
