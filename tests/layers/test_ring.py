import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

from research.errors import UserError
from research.layers.ring import ring_attention
from research.parallel.mesh import AXES

ROOT = Path(__file__).resolve().parents[2]


def test_ring_attention_equals_attention_on_one_device():
    """Forward and backward, over two and four blocks, with heads split as well; the reference has its own test."""
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


def test_lengths_must_be_divisible():
    mesh = AbstractMesh((1, 1, 1, 4), AXES, axis_types=(AxisType.Auto,) * 4)
    x = jnp.zeros((1, 6, 1, 2))
    with (
        jax.sharding.use_abstract_mesh(mesh),
        pytest.raises(UserError, match=r"6 positions is not divisible by mesh\.sequence 4: use lengths that are"),
    ):
        ring_attention(x, x, x)
