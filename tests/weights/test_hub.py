"""Published weights by their names on the hub: against a server on this machine, and in caches laid out by hand."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from research.config import load
from research.errors import UserError
from research.hub import fetched
from research.parallel.sharding import by_path
from research.runs.experiment import build_experiment
from tests.weights.hub_server import COMMIT, serving

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAME = "some-owner/tiny.clip"
DIGITS = "configs/vision/digits.py:tiny"
SOURCE = FIXTURES / "texts" / "clip"


@pytest.fixture
def asking(forked, tmp_path):
    """`asking(address, module, *arguments)`: a command that takes its weights from there, or from the cache alone."""

    def run(address, module, *arguments):
        environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_ENDPOINT": address, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_ETAG_TIMEOUT": "2"}
        return forked(f"experiments.{module}", [str(argument) for argument in arguments], environment)

    return run


def test_a_name_is_fetched_once_and_then_found_without_a_network(asking, tmp_path):
    with serving({NAME: SOURCE}) as (address, asked):
        first = asking(address, "weights", "import", f"hf:{NAME}", tmp_path / "first")
        assert first.code == 0, first.stderr
        fetched_files = {path.rsplit("/", 1)[-1] for path in asked if "/resolve/" in path}
        assert {"config.json", "model.safetensors", "vocab.json"} <= fetched_files
        assert not {"answers.json", "photo.png", "own.json"} & fetched_files, "what no import reads"
    away = asking("http://127.0.0.1:9", "weights", "import", f"hf:{NAME}", tmp_path / "second")
    assert away.code == 0, away.stderr
    local = asking("http://127.0.0.1:9", "weights", "import", SOURCE, tmp_path / "third")
    assert local.code == 0
    parameters = [line for line in local.stdout.splitlines() if "parameters" in line]
    assert parameters and all(parameters[0] in run.stdout for run in (first, away))


def test_a_revision_can_be_named(asking, tmp_path):
    with serving({NAME: SOURCE}) as (address, _):
        assert asking(address, "weights", "import", f"hf:{NAME}@{COMMIT}", tmp_path / "run").code == 0
        wrong = asking(address, "weights", "import", f"hf:{NAME}@v9", tmp_path / "other")
    assert wrong.code == 2 and "has no revision v9: leave it out, or name another after the @" in wrong.stderr


def test_what_cannot_be_had_is_one_sentence(asking, tmp_path):
    with serving({NAME: SOURCE}) as (address, _):
        unknown = asking(address, "weights", "import", "hf:some-owner/other", tmp_path / "run")
    assert unknown.code == 2 and "is not on the hub, or not for you" in unknown.stderr
    away = asking("http://127.0.0.1:9", "weights", "import", f"hf:{NAME}", tmp_path / "run")
    assert away.code == 2 and "is not whole in the cache and cannot be fetched" in away.stderr
    assert all(len(run.stderr.strip().splitlines()) == 1 for run in (unknown, away))


@pytest.mark.parametrize("damaged", ["model.safetensors", "vocab.json"])
def test_a_file_that_is_not_the_named_one_is_refused(damaged, asking, tmp_path):
    with serving({NAME: SOURCE}, damaged) as (address, _):
        found = asking(address, "weights", "import", f"hf:{NAME}", tmp_path / "run")
    assert found.code == 2 and f"{damaged} of hf:{NAME} is not what the hub holds: remove" in found.stderr
    assert not (tmp_path / "run").exists()


def test_a_cache_that_was_laid_out_by_hand(asking, tmp_path):
    model = tmp_path / "cache" / "hub" / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(SOURCE, model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    found = asking("http://127.0.0.1:9", "weights", "import", f"hf:{NAME}", tmp_path / "run")
    assert found.code == 0, found.stderr


def test_a_training_starts_from_a_name_and_notes_what_it_meant(asking, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "weights").mkdir()
    state = build_experiment(load(DIGITS, {"seed": "5"}), tmp_path / "made").run.create_state()
    arrays = {path: np.asarray(leaf) for path, leaf in by_path(state.params).items()}
    save_file(arrays, tmp_path / "weights" / "model.safetensors")
    with serving({NAME: tmp_path / "weights"}) as (address, _):
        for run, source in (("run", f"hf:{NAME}"), ("local", tmp_path / "weights")):
            found = asking(address, "train", f"--config={DIGITS}", f"--workdir={tmp_path / run}", f"--from={source}")
            assert found.code == 0, found.stderr
    results = [json.loads((tmp_path / run / "results.json").read_text()) for run in ("run", "local")]
    assert results[0] == results[1] and not (tmp_path / "local" / "hub.json").exists()
    assert json.loads((tmp_path / "run" / "hub.json").read_text()) == {f"hf:{NAME}": COMMIT}


def test_a_run_asks_for_the_commit_that_it_noted(monkeypatch, tmp_path):
    asked = []

    def download(repository, *, revision, allow_patterns):
        asked.append((repository, revision))
        (tmp_path / (revision or COMMIT)).mkdir(exist_ok=True)
        return str(tmp_path / (revision or COMMIT))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for folder in (tmp_path, tmp_path, None):
        assert fetched(f"hf:{NAME}", folder).name == COMMIT
    assert asked == [(NAME, None), (NAME, COMMIT), (NAME, None)]


def test_configs_of_texts_take_a_name_for_their_weights(asking, tmp_path):
    """The config keeps the name, so that it does not change with the cache, and the run notes its commit once."""
    config = load(f"configs/language/fine_tune.py:weights=hf:{NAME}")
    assert config.transfer.source == config.task.tokenizer.path == f"hf:{NAME}"
    assert "transfer" not in load("configs/language/fine_tune.py")
    assert load("configs/language/fine_tune.py:weights=./w/").transfer.source == "./w/"
    (tmp_path / "texts.csv").write_text("text,label\n" + "a cat,x\na dog,y\n" * 20)
    (tmp_path / "weights").mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog"]
    (tmp_path / "weights" / "vocab.txt").write_text("\n".join(words) + "\n")
    spec = f"--config=configs/language/fine_tune.py:file={tmp_path / 'texts.csv'},tiny"
    with serving({NAME: tmp_path / "weights"}) as (address, _):
        path = f"--config.task.tokenizer={{'path': 'hf:{NAME}'}}"
        found = asking(address, "train", spec, f"--workdir={tmp_path / 'run'}", path, "--config.data.folds=5")
    assert found.code == 0, found.stderr
    assert json.loads((tmp_path / "run" / "hub.json").read_text()) == {f"hf:{NAME}": COMMIT}
    assert '"cat"' in (tmp_path / "run" / "tokenizer.json").read_text()


def laid_out(tmp_path, files, trees=False):
    model = tmp_path / "cache" / "hub" / f"models--{NAME.replace('/', '--')}"
    (model / "snapshots" / COMMIT).mkdir(parents=True)
    for name in files:
        shutil.copy(SOURCE / name, model / "snapshots" / COMMIT / name)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return model


def test_a_cache_that_may_lack_files_is_said(asking, tmp_path):
    laid_out(tmp_path, ["config.json", "model.safetensors", "vocab.json", "merges.txt", "preprocessor_config.json"])
    found = asking("http://127.0.0.1:9", "weights", "import", f"hf:{NAME}", tmp_path / "run")
    assert found.code == 0, found.stderr
    assert f"warning: hf:{NAME} is taken as it lies in the cache, which may lack files" in found.stderr


def test_a_link_that_leads_nowhere(asking, tmp_path):
    model = laid_out(tmp_path, ["model.safetensors"])
    (model / "snapshots" / COMMIT / "config.json").symlink_to("../../blobs/" + "0" * 40)
    found = asking("http://127.0.0.1:9", "weights", "import", f"hf:{NAME}", tmp_path / "run")
    assert found.code == 2 and "is not whole in the cache" in found.stderr and "config.json" in found.stderr


@pytest.mark.parametrize("noted", ["zzz", "HEAD", "../../../evil"])
def test_a_note_that_is_no_commit_is_set_aside(noted, monkeypatch, tmp_path):
    (tmp_path / "hub.json").write_text(json.dumps({f"hf:{NAME}": noted}))
    asked = []

    def download(repository, *, revision, allow_patterns):
        asked.append(revision)
        (tmp_path / COMMIT).mkdir(exist_ok=True)
        return str(tmp_path / COMMIT)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    fetched(f"hf:{NAME}", tmp_path)
    assert asked == [None] and json.loads((tmp_path / "hub.json").read_text()) == {f"hf:{NAME}": COMMIT}


@pytest.mark.parametrize("error", [RuntimeError("xet"), ValueError("no JSON"), ConnectionResetError(104, "reset")])
def test_a_network_that_fails_in_its_own_way(error, monkeypatch):
    def download(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(UserError, match="is not whole in the cache and cannot be fetched"):
        fetched(f"hf:{NAME}")


@pytest.mark.parametrize("name", ["hf:", "hf:alone", "hf:a/b/c", "hf:a/b@", "hf:../../x/y", "hf:a/b@../../x"])
def test_what_is_no_name(name):
    with pytest.raises(UserError, match=r"is not a name on the hub: write hf:OWNER/NAME, or hf:OWNER/NAME@REVISION"):
        fetched(name)


def test_paths_are_themselves(tmp_path):
    assert fetched(str(tmp_path)) == tmp_path and fetched("~/x") == Path.home() / "x"
