"""What is kept, what is read again, and what happens to files that are damaged."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import build
from research.errors import UserError
from research.training.checkpoints import CheckpointPolicy, Checkpoints, Damaged
from research.training.durations import Duration
from research.training.fingerprint import contents
from research.training.loop import fit
from research.training.state import TrainState
from tests.training.toy import make_run

POLICY = CheckpointPolicy(every=Duration(steps=4), keep=2)


def train(folder, policy=POLICY, **options) -> TrainState:
    folder.mkdir(exist_ok=True)
    with Checkpoints(folder / "checkpoints", policy) as checkpoints:
        return jax.device_get(fit(make_run(folder, **options), checkpoints)[0])


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def flip_last(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", [truncate, None, flip_middle, flip_last], ids=lambda damage: str(damage)[10:20])
def test_no_damage_to_any_file_leads_to_another_result(damage, tmp_path, capfd):
    """Every file of the newest checkpoint in turn; None deletes it."""
    whole = train(tmp_path / "whole", steps=12)
    train(tmp_path / "half", steps=8)
    newest = tmp_path / "half" / "checkpoints" / "8"
    files = [path.relative_to(newest) for path in sorted(newest.rglob("*")) if path.is_file()]
    assert len(files) > 4
    fallen_back = 0
    for file in files:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "half", folder)
        path = folder / "checkpoints" / "8" / file
        if damage is None:
            path.unlink()
        elif path.stat().st_size:
            path.write_bytes(damage(path.read_bytes()))
        capfd.readouterr()
        jax.tree.map(np.testing.assert_array_equal, whole, train(folder, steps=12))
        aside = list((folder / "checkpoints_damaged").glob("8-*"))
        assert bool(aside) == ("warning: the checkpoint of step 8 is damaged" in capfd.readouterr().err)
        fallen_back += len(aside)
    assert fallen_back >= 2


def test_a_run_without_a_good_checkpoint_stops(tmp_path):
    train(tmp_path, steps=4)
    for path in (tmp_path / "checkpoints" / "4").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read .*step 4 is damaged"):
        train(tmp_path, steps=8)
    assert (tmp_path / "checkpoints" / "4").exists()


def test_evaluation_never_takes_another_checkpoint_by_itself(tmp_path):
    train(tmp_path, steps=8)
    (tmp_path / "checkpoints" / "4" / "_CHECKPOINT_METADATA").write_text("{}")
    with Checkpoints(tmp_path / "checkpoints", POLICY, write=False) as checkpoints:
        assert checkpoints.steps() == [8]
        with pytest.raises(Damaged, match=r"step 4 is damaged .*: move .*checkpoints/4 away"):
            checkpoints.evaluation_steps()


def test_temporary_checkpoints_displace_no_kept_one(tmp_path):
    """Saved at every log line when no minute has to pass; only the newest stays, and evaluation does not see it."""
    policy = CheckpointPolicy(every=Duration(steps=8), every_minutes=1e-9, keep=1, average=1)
    run = make_run(tmp_path, steps=14, log_every=1)
    seen = []

    class Watched(Checkpoints):
        def save(self, state, step, *rest, kept):
            super().save(state, step, *rest, kept=kept)
            self.wait()
            seen.append((step, kept, self.steps(), self.evaluation_steps()))

    with Watched(tmp_path / "checkpoints", policy) as checkpoints:
        fit(run, checkpoints)
    assert [(step, kept) for step, kept, _, _ in seen] == [(step, step in (8, 14)) for step in range(1, 15)]
    assert seen[0][2:] == ([1], [1])  # nothing better is there yet
    assert seen[6][2:] == ([7], [7])
    assert seen[9][2:] == ([8, 10], [8])
    assert seen[-1][2:] == ([14], [14])


def test_a_run_goes_on_bit_for_bit_from_a_temporary_checkpoint(tmp_path):
    whole = train(tmp_path / "whole", steps=14, dropout=0.2)
    policy = CheckpointPolicy(every_minutes=1e-9)

    class Killed(Exception):
        pass

    class Dies(Checkpoints):
        def save(self, state, step, *rest, kept):
            if step == 9:
                raise Killed
            super().save(state, step, *rest, kept=kept)

    (tmp_path / "cut").mkdir()
    with pytest.raises(Killed), Dies(tmp_path / "cut" / "checkpoints", policy) as checkpoints:
        fit(make_run(tmp_path / "cut", steps=14, dropout=0.2), checkpoints)
    with Checkpoints(tmp_path / "cut" / "checkpoints", policy) as checkpoints:
        assert checkpoints.steps() == [6]
    jax.tree.map(np.testing.assert_array_equal, whole, train(tmp_path / "cut", policy, steps=14, dropout=0.2))


@pytest.mark.parametrize("minutes", [0, -1.0])
def test_minutes_must_be_positive(minutes):
    with pytest.raises(UserError, match=r"checkpoint\.every_minutes is"):
        build(CheckpointPolicy, {"every_minutes": minutes}, "checkpoint")


@pytest.mark.parametrize(
    "array",
    [
        np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6),
        np.arange(-5, 7, dtype=np.int32),
        np.array([True, False, True]),
        np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
        jnp.arange(8, dtype=jnp.bfloat16),
        np.float32(3),
    ],
    ids=lambda array: str(array.dtype),
)
def test_a_fingerprint_sees_every_bit(array):
    """Against the definition: words of 32 bits times odd numbers, added up modulo 2**32, here in Python's integers."""
    array = np.asarray(array)
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[array.dtype.itemsize]
    words = np.frombuffer(array.tobytes(), kind).tolist()
    expected = sum(word * ((place * 0x9E3779B1 % 2**32) | 1) for place, word in enumerate(words)) % 2**32
    assert contents({"a": jnp.asarray(array)}) == {"a": {"shape": list(array.shape), "sum": expected}}
    for place in range(array.size if array.dtype != bool else 0):
        flipped = np.frombuffer(array.tobytes(), kind).copy()
        flipped[place] ^= 1
        changed = flipped.view(array.dtype).reshape(array.shape)
        assert contents({"a": jnp.asarray(changed)})["a"]["sum"] != expected
