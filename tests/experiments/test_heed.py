"""The command `heed`: the commands of `experiments` by their names, from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = {file.stem for file in (ROOT / "experiments").glob("*.py")} - {"__init__", "heed"}


def heed(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    program = "import sys; from experiments.heed import main; sys.argv[0] = 'heed'; main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", program, *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_it_lists_and_starts_commands(tmp_path):
    listed = heed(tmp_path).stdout
    assert all(name in listed for name in EXPERIMENTS)
    config = ROOT / "configs/translation/phrasebook.py"
    shown = heed(tmp_path, "inspect", f"--config={config}:tiny", "--count=1")
    assert shown.returncode == 0 and "the training batch of step 0" in shown.stdout
    assert "python -m experiments.train" in heed(tmp_path, "train", "--help").stdout


@pytest.mark.parametrize(("name", "hint"), [("trian", "did you mean train"), ("heed", "is not a command")])
def test_what_is_not_a_command(tmp_path, name, hint):
    done = heed(tmp_path, name)
    assert done.returncode == 2 and hint in done.stderr and done.stderr.count("\n") == 1


def test_compiled_programs_are_kept_for_the_next_start(tmp_path, run):
    environment = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = ["train", "--config=configs/theory/grokking.py:tiny", "--config.training.duration.steps=1"]
    kept = []
    for folder in ("a", "b"):
        assert run(*command, f"--workdir={tmp_path / folder}", **environment).code == 0
        kept.append({path.name for path in (tmp_path / "cache" / "heed").glob("programs-*/jit_train-*-cache")})
    assert len(kept[0]) == 1 and kept[1] == kept[0]
