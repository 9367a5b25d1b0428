import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_ring_attention_equals_attention_on_one_device():
    """Forward and backward, over two and four blocks, padded or not, with heads split as well."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.layers.ring_parity"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        check=True,
    )
    deviations = json.loads(done.stdout)
    assert len(deviations) == 24
    assert {name: worst for name, worst in deviations.items() if worst > 1e-5} == {}
