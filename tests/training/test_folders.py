"""Folders with odd names, with foreign things in them, and folders that are gone."""

import itertools
import os
import re
import shutil
import socket
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.training.checkpoints import CheckpointPolicy, Checkpoints
from research.training.durations import Duration
from research.training.folders import plain
from research.training.loop import fit
from research.training.state import TrainState
from tests.training.toy import make_run

POLICY = CheckpointPolicy(every=Duration(steps=4), keep=2)
STATE = TrainState(
    step=jnp.int32(3),
    params={"layer": {"kernel": jnp.arange(6.0).reshape(2, 3)}},
    opt_state={},
    model_state={},
    ema=None,
    accepted=jnp.int32(3),
    norm=jnp.float32(0.5),
)
ODD = [
    "br[1]", "[!a]", "[", "]", "{x}", "a*b", "a?b", "*", "back\\slash", "gs:", "s3:", "a:b", "sp ace ", "q'\"`",
    "$HOME", "~", "~root", "100%", "%41", "#", "&", ";", "|", "(", "-lead", "--config", "dot.", "..x", "new\nline",
    "\t", "ü☃😀", "e\u0301", "\u202e", "x" * 200, b"\xff\xfe".decode(errors="surrogateescape"),
    "a.orbax-checkpoint-tmp",
]  # fmt: skip


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory, monkeypatch):
    """Links go where they are deleted with the test's other files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("links")))


def saved(folder, step=3, state=STATE):
    folder.mkdir(parents=True, exist_ok=True)
    with Checkpoints(folder / "checkpoints", POLICY) as checkpoints:
        checkpoints.save(state, step, {}, {"validation/loss": 0.5}, kept=True)


def same(folder, step=3, state=STATE):
    with Checkpoints(folder / "checkpoints", POLICY, write=False) as checkpoints:
        assert checkpoints.steps() == [step] and checkpoints.evaluation_steps() == [step]
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
        )
        jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(abstract, step)[0], state)


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_checkpoints_in_folders_of_any_name(name, tmp_path):
    """Nothing lands beside the folder, which can be copied to a plain name and back, and opened by a relative path."""
    folder = tmp_path / "runs" / name
    saved(folder)
    same(folder)
    assert os.listdir(tmp_path / "runs") == [name] and os.listdir(tmp_path) == ["runs"]
    shutil.copytree(folder, tmp_path / "copy")
    same(tmp_path / "copy")


def test_names_are_no_patterns_for_each_other(tmp_path):
    """`run*` and `run?` fit the name of their neighbour, whose parts were merged into theirs."""
    names = ["run1", "run?", "run*", "run[1]", "ru\\n1", "run:"]
    for number, name in enumerate(names):
        state = STATE.replace(params={"layer": {"kernel": jnp.full((2, 3), float(number))}})
        saved(tmp_path / name, state=state)
    for number, name in enumerate(names):
        same(tmp_path / name, state=STATE.replace(params={"layer": {"kernel": jnp.full((2, 3), float(number))}}))


def test_relative_paths_links_and_a_home(tmp_path, monkeypatch):
    (tmp_path / "real [1]").mkdir()
    (tmp_path / "link").symlink_to("real [1]")
    monkeypatch.chdir(tmp_path)
    saved(tmp_path.relative_to(tmp_path) / "link")
    same(tmp_path.__class__("link/../real [1]"))
    same(tmp_path / "real [1]")


def test_a_checkpoint_that_was_not_merged_is_completed(tmp_path):
    """What was written to a path with brackets lacks its manifest, and the tree of arrays that it refers to."""
    saved(tmp_path)
    state = tmp_path / "checkpoints" / "3" / "state"
    (state / "manifest.ocdbt").unlink()
    shutil.rmtree(state / "d")
    Checkpoints(tmp_path / "checkpoints", POLICY).__exit__(None)
    same(tmp_path)


def test_links_of_others_are_not_followed(tmp_path, monkeypatch):
    folder = tmp_path / "br[1]"
    link = plain(folder)
    assert re.fullmatch(r"[\w/.-]+", str(link)) and link.readlink() == folder and plain(folder) == link
    assert plain(tmp_path) == tmp_path
    link.unlink()
    link.symlink_to(tmp_path)
    with pytest.raises(UserError, match="cannot stand for"):
        plain(folder)
    link.unlink()
    link.mkdir()
    with pytest.raises(UserError, match="cannot stand for"):
        plain(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"needs a link in .*missing, .*: set TMPDIR"):
        plain(folder)


def fifo(path):
    os.mkfifo(path)


def sock(path):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def link_out(path):
    path.symlink_to("/etc")


def link_to_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def a_folder(path):
    path.mkdir()


def a_file(path):
    path.write_bytes(b"x")


def json(text):
    def write(path):
        path.write_text(text)

    write.__name__ = text[:12]
    return write


THINGS = [fifo, sock, link_out, link_to_pipe, a_folder, json("[]"), json("null"), json('{"a": NaN}'), json("[" * 99999)]
PLACES = ["", "_CHECKPOINT_METADATA", "state", "state/_METADATA", "state/manifest.ocdbt", "state/d", "state/_sharding"]


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run of 8 steps with checkpoints at 4 and 8, and the state after 12 undisturbed ones."""
    folder = tmp_path_factory.mktemp("half")
    with Checkpoints(folder / "checkpoints", POLICY) as checkpoints:
        fit(make_run(folder, steps=8), checkpoints)
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_foreign_things_in_a_checkpoint(place, half, tmp_path, capfd):
    """It is set aside with a warning, or is what was saved: never another state, a traceback or a wait."""
    abstract = make_run(half, steps=8).abstract_state
    with Checkpoints(half / "checkpoints", POLICY, write=False) as checkpoints:
        expected = {step: checkpoints.restore(abstract, step)[0] for step in (4, 8)}
    for thing in THINGS:
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(half, folder)
        path = folder / "checkpoints" / "8" / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        thing(path)
        capfd.readouterr()
        with Checkpoints(folder / "checkpoints", POLICY) as checkpoints:
            state, _, step = checkpoints.restore_newest(abstract)
        jax.tree.map(np.testing.assert_array_equal, state, expected[step])
        words = capfd.readouterr().err
        assert (step == 4) == words.startswith("warning: the checkpoint of step 8 is damaged"), (thing, words)
        if thing in (fifo, sock, link_out, link_to_pipe):
            assert step == 4 and re.search(r"is (a link|neither a file nor a folder)\)", words)


def test_an_unreadable_file_is_no_damage(half, tmp_path, monkeypatch):
    """The checkpoint stays where it is: the permissions are to be mended, not the file."""
    shutil.copytree(half, tmp_path / "run")
    for file in (path for path in (tmp_path / "run" / "checkpoints" / "8").rglob("*") if path.is_file()):
        monkeypatch.setattr(os, "access", lambda path, *_, file=file, **__: path != file)
        with pytest.raises(PermissionError, match=file.name):
            Checkpoints(tmp_path / "run" / "checkpoints", POLICY)
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["4", "8"]


def test_names_that_are_no_steps(half, tmp_path):
    shutil.copytree(half, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    for name in ("²", "٣", "0001", "1e3", "-1", "+5", "1_0", " 5", "9" * 19, "latest", "8.bak"):
        (checkpoints / name).mkdir()
    (checkpoints / "7.orbax-checkpoint-tmp").write_text("a file")
    (checkpoints / "6.orbax-checkpoint-tmp").symlink_to(half)
    with Checkpoints(checkpoints, POLICY) as opened:
        assert opened.steps() == [4, 8] and opened.evaluation_steps() == [8]
    assert half.exists() and not list(checkpoints.glob("*orbax-checkpoint-tmp*"))


def test_other_things_in_the_place_of_folders(half, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UserError, match="checkpoints is not a folder: move it away"):
        Checkpoints(tmp_path / "checkpoints", POLICY)
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "checkpoints").symlink_to(half / "checkpoints")
    for write in (True, False):
        with pytest.raises(UserError, match="leads out of the run's folder"):
            Checkpoints(tmp_path / "checkpoints", POLICY, write=write)
    shutil.copytree(half, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "8" / "_CHECKPOINT_METADATA").write_text("null")
    for thing, words in ((a_file, "is not a folder"), (link_out, "leads out of")):
        aside = tmp_path / "run" / "checkpoints_damaged"
        aside.unlink(missing_ok=True)
        thing(aside)
        with pytest.raises(UserError, match=words), Checkpoints(tmp_path / "run" / "checkpoints", POLICY) as opened:
            opened.restore_newest(make_run(tmp_path / "run", steps=8).abstract_state)


def deleted(folder):
    shutil.rmtree(folder)


def moved(folder):
    folder.rename(folder.with_name("elsewhere"))


def replaced(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "checkpoints").mkdir()


def made_a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize("happens", [deleted, moved, replaced, made_a_file])
@pytest.mark.parametrize("part", [".", "checkpoints"])
def test_a_folder_that_goes_while_training(happens, part, tmp_path):
    """The run ends with a true sentence, and nothing is made anew, by the next command of the same process neither."""
    folder = tmp_path / "run"

    class Goes(Checkpoints):
        def save(self, state, step, *rest, kept):
            if step == 8:
                self.wait()
                happens(folder / part)
                before.extend(itertools.chain(tmp_path.rglob("*")))
            super().save(state, step, *rest, kept=kept)

    before = []
    run = make_run(folder, steps=12)
    words = r"run.* was deleted, moved or replaced since this command started, so that nothing more is saved: move it"
    with pytest.raises(UserError, match=words), Goes(folder / "checkpoints", POLICY) as checkpoints:
        fit(run, checkpoints)
    if part == "." and happens in (deleted, moved):
        with pytest.raises(UserError, match="run does not exist any more: move it back, or start anew"):
            Checkpoints(folder / "checkpoints", POLICY)
    assert sorted(before) == sorted(tmp_path.rglob("*"))
