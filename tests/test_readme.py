"""Every command of the README runs: as written, but for the tiny size, folders of the test's own and a text to read."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """The lines of the sh blocks, continued lines joined, comments dropped."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def tiny(command: str, folder: Path) -> str:
    """The same command at the smallest size."""
    command = re.sub(r"(configs/\w+/\w+\.py)(:[\w=,./]+)?", _with_tiny, command)
    command = command.replace("runs/", f"{folder}/").replace("my_text.txt", str(folder / "my_text.txt"))
    return command.replace(".venv/bin/python", sys.executable)


def _with_tiny(found: re.Match) -> str:
    path, argument = found[1], (found[2] or ":")[1:]
    return f"{path}:{argument if 'tiny' in argument else ','.join(filter(None, [argument, 'tiny']))}"


def test_make_targets_of_the_readme_exist():
    targets = {line.split()[1] for line in commands() if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert targets == {"demo", "test"} and all(f"\n{target}:" in makefile for target in targets)


def test_every_python_command_runs_in_order(tmp_path, run):
    (tmp_path / "my_text.txt").write_text("All the world's a stage,\nAnd all the men and women merely players;\n" * 30)
    demo = re.search(r"demo: setup\n\t(.*)", (ROOT / "Makefile").read_text())[1]
    lines = [demo, *(line for line in commands() if "experiments." in line)]
    assert len(lines) > 6
    for line in lines:
        words = shlex.split(tiny(line, tmp_path))
        settings = [word for word in words if re.match(r"[A-Z_]+=", word)]
        done = subprocess.run(
            words[len(settings) :],
            cwd=ROOT,
            env=os.environ | dict(setting.split("=", 1) for setting in settings),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.parametrize("path", re.findall(r"`((?:research|experiments|configs)/[\w/.]*)`", TEXT))
def test_paths_of_the_readme_exist(path):
    assert (ROOT / path).exists()
