"""What goes along with an exported model, compared with what the project does; and folders that are refused.

That the answers are those of the run is tested for every task in tests/experiments/test_every_task.py.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from research.data.boxed_images import FittedQuestions
from research.data.tokenizer import Tokenizer
from research.data.transforms.photo import PhotoAugmentation
from research.data.windows import CoveringWindows, joined
from research.errors import UserError
from research.runs import standalone
from research.runs.experiment import open_run
from research.runs.predictor import Predictor
from research.runs.standing_alone import pictures, texts
from research.runs.standing_alone.run import apart, arrays_of, compare
from research.tasks.text_classification import TextClassification
from research.tasks.token_classification import TokenClassification
from research.tasks.vocabulary import rules_of

DIGITS = "configs/vision/digits.py:tiny"
SIZES = [(40, 40), (33, 90), (81, 47), (16, 17), (5, 120), (32, 32)]


def as_model(path=None, vocabulary=None, **fields):
    """What the functions of an exported folder know of a model."""
    model = types.SimpleNamespace(input=fields, answer=fields)
    if vocabulary is not None:
        vocabulary.save(path)
        model.text = model.written = texts.Text(path.parent, {**rules_of(vocabulary), "file": path.name})
    return model


@pytest.fixture(params=SIZES, ids=str)
def photo(request, tmp_path):
    """An image file, and its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (*request.param, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png"), pixels


@pytest.mark.parametrize("crop", ["random_resized", "none"])
@pytest.mark.parametrize("fraction", [0.875, 0.6, 1.0])
def test_photographs_are_cut_and_resized_as_in_evaluation(photo, crop, fraction):
    path, pixels = photo
    own = PhotoAugmentation(size=32, crop=crop, crop_fraction=fraction, interpolation="bicubic")
    ((row,), _) = pictures.image(as_model(shape=(None, None, 3), photo=own.evaluated), path)
    np.testing.assert_array_equal(row["image"], own.evaluate({"image": pixels})["image"])


@pytest.mark.parametrize("short_side", [None, 20, 31])
def test_images_are_fitted_into_a_square_as_in_detection(photo, short_side):
    path, pixels = photo
    ((row,), kept) = pictures.square(as_model(shape=(None, None, 3), size=32, short_side=short_side), path)
    wanted = FittedQuestions([{"image": pixels}], 32, 1, short_side=short_side).first()
    np.testing.assert_array_equal(row["image"], wanted["image"][0])
    np.testing.assert_array_equal(row["sizes"], wanted["sizes"][0])
    assert kept == pixels.shape[:2]


@pytest.mark.parametrize("overlap", [0.5, 0.0, 0.9])
def test_windows_cover_an_image_and_are_joined_as_in_segmentation(photo, overlap):
    path, pixels = photo
    model = as_model(shape=(None, None, 3), size=16, overlap=overlap, names=["a", "b", "c"])
    rows, kept = pictures.windows(model, path)
    wanted = CoveringWindows([{"image": pixels}], 16, overlap, masks=False)
    np.testing.assert_array_equal([row["image"] for row in rows], wanted.first(len(wanted))["image"])
    raw = np.random.default_rng(1).random((len(rows), 16, 16, 3), np.float32)
    answer = pictures.mask(model, [{"answers": one} for one in raw], kept)
    classes = joined(raw, wanted.windows, pixels.shape[:2]).argmax(axis=-1)
    found = np.repeat(answer["mask"]["labels"], answer["mask"]["lengths"]).reshape(answer["mask"]["size"])
    np.testing.assert_array_equal(found, classes)
    assert answer["shares"]["a"] == pytest.approx((classes == 0).mean())


TOKENIZERS = [
    Tokenizer("wordpiece", vocab_size=60),
    Tokenizer("bpe", vocab_size=300),
    Tokenizer("whitespace"),
    Tokenizer("unigram", vocab_size=300),
    Tokenizer("character"),
]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "</s>", "slept", "[SEP]", "for", "unbelievably", "long"]


@pytest.fixture(params=TOKENIZERS, ids=lambda tokenizer: tokenizer.kind)
def vocabulary(request):
    return request.param.train(["the cat sat on the mat and the dog slept", "a long day"] * 20)


def test_texts_become_the_rows_of_text_classification(vocabulary, tmp_path):
    task = TextClassification(tokenizer=Tokenizer(), length=16, vocabulary=vocabulary)
    model = as_model(tmp_path / "a.json", vocabulary, **task.standalone()["input"])
    random = np.random.default_rng(0)
    for _ in range(40):
        parts = [" ".join(random.choice(WORDS, random.integers(0, 20))) for _ in range(random.integers(1, 3))]
        item = "\t".join(parts)
        ((row,), _) = texts.text(model, item)
        wanted = task.questions([task.example(item)]).first()
        assert row["tokens"] == wanted["tokens"][0].tolist() and len(row["tokens"]) <= 16
        np.testing.assert_array_equal(row["segments"], wanted["segments"][0])


def test_words_become_the_rows_of_token_classification(vocabulary, tmp_path):
    names = tuple("abcdefghij")
    task = TokenClassification(tokenizer=Tokenizer(), length=12, vocabulary=vocabulary, class_names=names)
    model = as_model(tmp_path / "a.json", vocabulary, **task.standalone()["input"], names=list(names))
    random = np.random.default_rng(0)
    for _ in range(20):
        item = " ".join(random.choice(WORDS, random.integers(1, 30)))
        rows, kept = texts.words(model, item)
        example = task.example(item)
        wanted = task.questions([example])
        assert [row["tokens"] for row in rows] == [
            array[array != task.pad].tolist() for array in wanted.first(len(wanted))["tokens"]
        ]
        raw = random.integers(0, len(names), (len(rows), 12))
        assert texts.tags(model, [{"answers": row} for row in raw], kept) == task.answer(example, list(raw))


def test_tokens_become_the_same_text(vocabulary, tmp_path):
    text = as_model(tmp_path / "a.json", vocabulary).text
    for number in range(30):
        ids = np.random.default_rng(number).integers(0, vocabulary.vocab_size, 9)
        assert text.decode(ids) == vocabulary.decode(ids)


def test_arrays_are_read_without_the_library(tmp_path):
    arrays = {
        "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "c": np.array(3, np.int32),
        "d": np.zeros((0, 2), "u1"),
    }
    save_file(arrays, tmp_path / "x.safetensors", {"note": "x"})
    found = arrays_of(tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_what_differs_is_found():
    apart("x", np.array([1000.0]), np.array([1000.005]), 1e-5)
    compare("x", {"a": [0.5, "b"]}, {"a": [0.500001, "b"]}, 1e-5)
    compare("x", {"text": "0.100001", "value": 0.100001}, {"text": "0.1", "value": 0.1}, 1e-5)
    for found, stored in ((1.0, 1.0001), (float("nan"), 1.0), (2, 3)):
        with pytest.raises(UserError, match="x differs by"):
            apart("x", np.array(found), np.array(stored), 1e-5)
    with pytest.raises(UserError, match=r"x is \[2\] and was \[3\]"):
        apart("x", np.zeros(2), np.zeros(3), 1e-5)
    for found in ({"a": [0.5, "c"]}, {"a": [0.5]}, {"b": [0.5, "b"]}, {"a": [0.6, "b"]}):
        with pytest.raises(UserError, match="the answer"):
            compare("the answer", found, {"a": [0.5, "b"]}, 1e-5)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The folder of exported digits."""
    pytest.importorskip("flatbuffers")
    folder = tmp_path_factory.mktemp("exported") / "digits"
    standalone.export_standalone(open_run(trained(DIGITS)), folder)
    return folder


def run(folder, *arguments):
    command = [sys.executable, str(folder / "run.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True)


def test_the_folder_names_its_files_and_imports_nothing_of_the_project(exported):
    about = json.loads((exported / "export.json").read_text())
    assert about["sha256"].keys() == {path.name for path in exported.iterdir()} - {"export.json"}
    assert about["platforms"] == ["cpu", "cuda", "tpu"] and about["programs"][0]["batch"] is None
    assert not any("from research" in path.read_text() for path in exported.glob("*.py"))
    assert load_file(exported / "weights.safetensors").keys()
    assert b"research" not in (exported / "README.md").read_bytes()


@pytest.mark.parametrize("name", ["weights.safetensors", "program.bin", "pictures.py"])
def test_a_changed_file_is_refused(exported, name, tmp_path):
    changed = shutil.copytree(exported, tmp_path / "changed")
    content = bytearray((changed / name).read_bytes())
    content[-2] ^= 1
    (changed / name).write_bytes(content)
    for arguments, code in ((["--check"], 1), (["x.png"], 2)):
        done = run(changed, *arguments)
        assert done.returncode == code
        assert done.stderr == f"error: {name} is not the file that was exported: export the model again\n"


def test_other_answers_are_found_by_the_check(exported, tmp_path):
    """The weights of another model, with a checksum that fits."""
    changed = shutil.copytree(exported, tmp_path / "changed")
    weights = load_file(changed / "weights.safetensors")
    random = np.random.default_rng(0)
    others = {name: random.normal(size=array.shape).astype(np.float32) for name, array in weights.items()}
    save_file(others, changed / "weights.safetensors")
    about = json.loads((changed / "export.json").read_text())
    about["sha256"]["weights.safetensors"] = hashlib.sha256((changed / "weights.safetensors").read_bytes()).hexdigest()
    (changed / "export.json").write_text(json.dumps(about))
    done = run(changed, "--check")
    assert done.returncode == 1 and done.stderr.startswith("error: raw/answers of question 1 differs by ")
    assert done.stderr.count("\n") == 1


def test_what_cannot_be_read_as_an_image_is_one_sentence(exported, tmp_path):
    (tmp_path / "x.png").write_text("x")
    for arguments in ([tmp_path / "x.png"], [tmp_path / "nowhere.png"], []):
        done = run(exported, *arguments)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_programs_of_fixed_sizes_where_a_model_takes_no_others(trained, tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers")
    own = standalone._exported
    monkeypatch.setattr(
        standalone, "_exported", lambda *shapes, required: own(*shapes, required=True) if required else None
    )
    lines = standalone.export_standalone(open_run(trained(DIGITS)), tmp_path / "exported")
    assert lines[0] == "programs for cpu, cuda, tpu, of 1 or 8 inputs at once: 2"
    images = [tmp_path / "exported" / "selftest_1.png", tmp_path / "exported" / "selftest_2.png"] * 5
    lines = run(tmp_path / "exported", "--json", *images).stdout.splitlines()
    assert len(lines) == 10 and len({*lines[::2]}) == len({*lines[1::2]}) == 1


def test_what_cannot_be_exported(trained, tmp_path, monkeypatch):
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "x").touch()
    with pytest.raises(UserError, match="busy is not empty: give a new folder for the exported model"):
        standalone.export_standalone(open_run(trained(DIGITS)), tmp_path / "busy")
    empty = shutil.copytree(trained(DIGITS), tmp_path / "run")
    shutil.rmtree(empty / "checkpoints")
    monkeypatch.setattr(standalone.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UserError, match="holds no checkpoint yet: train it first"):
        standalone.export_standalone(open_run(empty), tmp_path / "a")
    monkeypatch.setattr(standalone.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--format=jax needs the package flatbuffers: install the extra export"):
        standalone.export_standalone(open_run(empty), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_exported_run_of_onnx_answers_as_the_run_does(trained, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    lines = standalone.export_standalone(open_run(trained(DIGITS)), tmp_path / "exported", "onnx")
    assert lines[0] == "programs for onnxruntime, of 1 or 8 inputs at once: 2"
    images = [tmp_path / "exported" / "selftest_1.png", tmp_path / "exported" / "selftest_2.png"] * 5
    done = run(tmp_path / "exported", "--check", "--json", *images)
    assert done.returncode == 0, done.stderr
    _, *found = map(json.loads, ["0", *done.stdout.splitlines()[1:]])
    wanted = Predictor.open(trained(DIGITS)).answer(list(map(str, images)))
    assert [answer["label"] for answer in found] == [answer["label"] for answer in wanted]
    np.testing.assert_allclose(*([answer["probability"] for answer in both] for both in (found, wanted)), atol=1e-5)
