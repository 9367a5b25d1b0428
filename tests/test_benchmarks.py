import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import decode_speed, generation_speed


def test_the_translations_that_are_timed_have_every_token(monkeypatch):
    shape = {"LAYERS": 1, "WIDTH": 8, "MLP_WIDTH": 8, "HEADS": 2, "VOCAB": 16, "BATCH": 2, "BEAMS": 2}
    for name, value in shape.items():
        monkeypatch.setattr(decode_speed, name, value)
    translations = decode_speed.heed()()
    decode_speed.check(translations, "beam_search")
    assert translations.shape[0] == shape["BATCH"] and (translations[:, 1:] != decode_speed.EOS).all()


def run_accelerator(tmp_path, *options):
    command = [sys.executable, "-m", "benchmarks.accelerator", f"--output={tmp_path / 'figures.json'}", *options]
    return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)


@pytest.mark.parametrize("part", ["parity", "attention", "training", "decoding"])
def test_each_part_of_the_accelerators_benchmark_runs_on_any_machine(tmp_path, part):
    done = run_accelerator(tmp_path, f"--parts={part}", "--tiny")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())[part]
    assert found["device"] and found["rows"] and not any("failed" in row for row in found["rows"].values())
    if part == "parity":
        assert all(row["within"] for row in found["rows"].values())


def test_a_part_without_an_accelerator_or_out_of_time_is_said(tmp_path):
    done = run_accelerator(tmp_path, "--parts=decoding")
    assert done.returncode == 1 and "JAX finds no accelerator here" in done.stderr and "error: decoding" in done.stdout
    done = run_accelerator(tmp_path, "--parts=decoding", "--tiny", "--limit=0.001")
    assert done.returncode == 1 and "error: decoding not over after 0 s" in done.stdout
    done = run_accelerator(tmp_path, "--parts=nothing")
    assert done.returncode == 2 and "--parts 'nothing' is none of parity, attention" in done.stderr


def test_generation_speed_measures_whole_continuations(monkeypatch):
    for name, value in {
        "LAYERS": 1,
        "WIDTH": 16,
        "HEADS": 2,
        "BATCH": 2,
        "PROMPT": 4,
        "NEW_TOKENS": 3,
        "TOTAL": 7,
    }.items():
        monkeypatch.setattr(generation_speed, name, value)
    written = generation_speed.heed()()
    generation_speed.check(written, "predict")
    with pytest.raises(SystemExit, match=r"instead of 3 tokens behind each of 2 prompts"):
        generation_speed.check(written[:, :-1], "predict")
