"""Meshes of eight forced devices, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from research.errors import UserError
from research.parallel.mesh import MeshShape, batch_share, check_batch_size
from research.runs.tables import MODELS
from tests.parallel.mesh_parity import CASES, FEW_MESHES, MESHES_OF

ROOT = Path(__file__).resolve().parents[2]
EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


def test_every_model_has_a_case():
    assert set(CASES) == set(MODELS), "give a new model a case in tests/parallel/mesh_parity.py"


@pytest.mark.parametrize("model", sorted(CASES))
def test_losses_and_gradients_are_those_of_one_device(model):
    command = [sys.executable, "-m", "tests.parallel.mesh_parity", model]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | EIGHT, capture_output=True, text=True, check=True)
    deviations = json.loads(done.stdout)
    assert len(deviations) == len(MESHES_OF.get(model, FEW_MESHES))
    # MobileNet's forty normalisations of a few pixels magnify what another order of summation changes.
    most = 1e-4 if model == "mobilenet" else 1e-5
    assert {name: pair for name, pair in deviations.items() if max(pair) > most} == {}


@pytest.mark.parametrize(
    ("shape", "devices", "sizes"),
    [
        (MeshShape(), 8, (8, 1, 1, 1)),
        (MeshShape(data=1, fsdp=-1), 8, (1, 8, 1, 1)),
        (MeshShape(data=-1, fsdp=2, tensor=2), 8, (2, 2, 2, 1)),
        (MeshShape(data=1, fsdp=1, tensor=1, sequence=4), 4, (1, 1, 1, 4)),
    ],
)
def test_one_axis_takes_what_is_left(shape, devices, sizes):
    assert shape.sizes(devices) == sizes


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (MeshShape(data=3), "the mesh data 3 does not fit 8 devices: use mesh.data -1 or 8"),
        (MeshShape(data=4, fsdp=4), "the mesh data 4 x fsdp 4 does not fit 8 devices: use mesh.data -1 or 2"),
        (MeshShape(tensor=3), "does not fit 8 devices: use sizes whose product divides 8, and mesh.data -1"),
        (MeshShape(fsdp=-1), "mesh.data and mesh.fsdp are both -1: only one axis can take what is left"),
        (MeshShape(sequence=0), "has an empty axis: use 1 or more devices along each, or one -1"),
        (MeshShape(data=-2), "has an empty axis"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(shape, sentence):
    with pytest.raises(UserError, match=sentence):
        shape.sizes(8)


class Device:
    """Stands in for a device of another process."""

    def __init__(self, process_index):
        self.process_index = process_index


def mesh_of(processes, **shape):
    """A mesh's shape and devices, by the process of each device."""
    import types

    import numpy as np

    sizes = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1} | shape
    devices = np.array([Device(process) for process in processes]).reshape(tuple(sizes.values()))
    return types.SimpleNamespace(shape=sizes, devices=devices)


@pytest.mark.parametrize(
    ("processes", "shape", "share"),
    [
        ([0, 0, 1, 1], {"data": 4}, (0, 2)),
        ([1, 1, 0, 0], {"data": 4}, (1, 2)),
        ([1, 1, 0, 0], {"data": 2, "tensor": 2}, (1, 2)),
        ([1, 0], {"tensor": 2}, (0, 1)),  # both read the same rows
        ([2, 3, 0, 1], {"fsdp": 2, "sequence": 2}, (1, 2)),
        ([1, 2, 3, 0], {"data": 4}, (3, 4)),
    ],
)
def test_processes_read_the_rows_that_their_devices_hold(processes, shape, share):
    assert jax.process_index() == 0
    assert batch_share(mesh_of(processes, **shape)) == share


def test_a_process_whose_rows_lie_apart_is_refused():
    with pytest.raises(UserError, match="lie apart along the batch axes"):
        batch_share(mesh_of([0, 1, 0, 1], data=4))


def test_batches_must_be_divisible():
    mesh = mesh_of([0] * 8, data=4, fsdp=2)
    check_batch_size(32, mesh, 2, "training.batch_size")
    with pytest.raises(UserError, match="30 is not divisible by the 8-way data axis: use 24 or 32"):
        check_batch_size(30, mesh, 1, "training.batch_size")
