"""The report before a run, as a user reads it."""

import re

import pytest

DIGITS = "configs/vision/digits.py:tiny"
PHRASEBOOK = "configs/translation/phrasebook.py:tiny"


def test_a_report_of_this_machine(run):
    code, out, err = run("doctor", f"--config={PHRASEBOOK}", "--seconds=1")
    assert code == 0, err
    for title in ("Devices", "Model", "Step", "Memory of each device", "Parameters and where they are", "Time"):
        assert f"\n{title}" in out
    shown = re.findall(r"^\S+/\S+ +\[([\d, ]+)\] +x(\d+)", out, re.MULTILINE)
    total = 0
    for sizes, count in shown:
        product = int(count)
        for size in sizes.split(","):
            product *= int(size)
        total += product
    assert f"{total:,} parameters" in out
    assert re.search(r"s a step \(mean of \d+\): 1 min for 6 steps", out)


@pytest.mark.parametrize("mesh", ["2x2", "fsdp=4,tensor=2"])
def test_a_report_for_other_devices(mesh, run):
    wide = [f"--config.model.{name}=64" for name in ("width", "mlp_width")]
    code, out, err = run("doctor", f"--config={PHRASEBOOK}", f"--mesh={mesh}", "--memory=16", *wide)
    assert code == 0, err
    devices = 4 if mesh == "2x2" else 8
    assert f"{devices} x cpu, 17.18 GB each, compiled on this CPU" in out
    assert "source: int32 [8, 13], [2, 13] on each device" in out
    assert re.search(r"all-gather +x\d+", out) and "are whole on every device" in out
    assert "\nTime" not in out
    kernel = "(fsdp, -, -)" if mesh == "2x2" else "(fsdp, tensor, -)"
    assert re.search(rf"decoder/layer_\*/self_attention/query/kernel .*{re.escape(kernel)}", out)


def test_eight_way_fsdp_holds_an_eighth(run):
    """Parameters and optimizer state at most 1/8 plus 5 % a device, with the batch, by the compiled program."""
    wide = ["--config.model.width=256", "--config.model.mlp_width=1024", "--config.model.num_heads=4"]
    code, out, err = run("doctor", f"--config={PHRASEBOOK}", "--mesh=1x8", *wide)
    assert code == 0, err
    number, unit = re.search(r"optimizer's state ([\d.]+) (\w+)", out).groups()
    arguments, other = re.search(r"arguments ([\d.]+) (\w+)", out).groups()
    scale = {"kB": 1e3, "MB": 1e6}
    assert float(arguments) * scale[other] <= float(number) * scale[unit] / 8 * 1.05


@pytest.mark.parametrize("mesh", ["bananas", "8x", "0x2", "width=3", "2x2x2x2x2", "fsdp"])
def test_what_is_no_mesh(mesh, run):
    code, _, err = run("doctor", f"--config={DIGITS}", f"--mesh={mesh}")
    assert code == 2 and "is not a mesh: write sizes such as 8x4" in err


def test_a_mesh_that_does_not_divide_the_batch(run):
    code, _, err = run("doctor", f"--config={DIGITS}", "--mesh=fsdp=3")
    assert code == 2 and "not divisible by the 3-way data axis" in err
