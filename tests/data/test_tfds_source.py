"""TFDS through ArrayRecord: a data set built on the spot, read in a process that must never import TensorFlow."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from research.data.tfds_source import Tfds
from research.errors import UserError

BUILD_AND_READ = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from research.data.tfds_source import Tfds

class TinyShapes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(4, 5, 3)),
            "kind": tfds.features.ClassLabel(names=["round", "square"]),
            "en": tfds.features.Text(), "fr": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(8), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for index in range(count):
            stream = io.BytesIO()
            Image.fromarray(np.full((4, 5, 3), 10 * index, np.uint8)).save(stream, "PNG")
            stream.seek(0)
            yield index, {"image": stream, "kind": index % 2, "en": f"text {index}", "fr": f"été {index}"}

TinyShapes(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
images = Tfds("tiny_shapes", sys.argv[1], validation="train[:25%]", train="train[25%:]",
              keys={"image": "image", "label": "kind"})
assert images.class_names == ("round", "square")
assert [len(images.examples(split)) for split in images.splits] == [6, 2, 3]
seen = set()
for split in ("train", "validation"):
    for example in images.examples(split):
        assert set(example) == {"image", "label"} and type(example["label"]) is int
        assert example["image"].shape == (4, 5, 3) and example["image"].dtype == np.uint8
        index = int(example["image"][0, 0, 0]) // 10
        assert (example["image"] == 10 * index).all() and example["label"] == index % 2
        seen.add(index)
assert seen == set(range(8))
text = Tfds("tiny_shapes", sys.argv[1], keys={"source": "en", "target": "fr"}).examples("train")
assert sorted(e["source"] for e in text) == [f"text {index}" for index in range(8)]
assert all(e["target"] == e["source"].replace("text", "été") for e in text)
class Answers(tfds.core.GeneratorBasedBuilder):  # the features of TFDS's own squad
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        answers = tfds.features.Sequence({"text": tfds.features.Text(), "answer_start": np.int32})
        texts = {name: tfds.features.Text() for name in ("id", "title", "context", "question")}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({**texts, "answers": answers}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        answers = {"text": ["Été", "b"], "answer_start": [0, 4]}
        yield 0, {"id": "x", "title": "t", "context": "Été b", "question": "?", "answers": answers}
        yield 1, {"id": "y", "title": "t", "context": "c", "question": "?", "answers": {"text": [], "answer_start": []}}

Answers(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
keys = {name: name for name in ("context", "question", "answers")}
questions = Tfds("answers", sys.argv[1], validation=None, test=None, keys=keys).examples("train")
found = sorted((each["context"], each["answers"]["text"], each["answers"]["answer_start"]) for each in questions)
assert found == [("c", [], []), ("Été b", ["Été", "b"], [0, 4])], found
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("tfds"))
    subprocess.run([sys.executable, "-c", BUILD_AND_READ, folder], check=True)
    return folder


def test_images_and_text_without_tensorflow(data_dir: str):
    assert Path(data_dir, "tiny_shapes", "1.0.0", "dataset_info.json").exists()  # the script's own checks passed


@pytest.mark.parametrize(
    ("fields", "split", "message"),
    [
        ({}, "tset", "split 'tset' is unknown: use train, validation or test"),
        ({"test": None}, "test", "use train or validation"),
        ({}, "validation", "validation split 'validation' is not in tiny_shapes: use train, test, a part"),
        ({}, "train", "keys names 'label', which tiny_shapes does not have: use en, fr, image, kind"),
    ],
)
def test_bad_splits_and_keys(data_dir: str, fields: dict, split: str, message: str):
    keys = {"image": "image", "label": "label" if "keys" in message else "kind"}
    with pytest.raises(UserError, match=message):
        Tfds("tiny_shapes", data_dir, keys=keys, **fields).examples(split)


@pytest.mark.parametrize("name", ["mnist", "no_such_data_set", "glue/sst2"])
def test_unprepared_data_set_names_the_command(tmp_path: Path, name: str):
    with pytest.raises(UserError, match=r"is not prepared in .*download_and_prepare") as error:
        Tfds(name, str(tmp_path)).examples("train")
    assert name in str(error.value) and str(tmp_path) in str(error.value)


def test_tfrecord_only_data_set_names_the_command(data_dir: str, tmp_path: Path):
    folder = tmp_path / "tiny_shapes" / "1.0.0"
    folder.mkdir(parents=True)
    for file in Path(data_dir, "tiny_shapes", "1.0.0").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"not in the ArrayRecord format: .*file_format='array_record'"):
        Tfds("tiny_shapes", str(tmp_path), keys={"label": "kind"}).examples("train")


@pytest.fixture
def copied(data_dir: str, tmp_path: Path) -> Path:
    """The version's folder of a copy of the data set, whose data_dir is its grandparent."""
    shutil.copytree(Path(data_dir, "tiny_shapes"), tmp_path / "tiny_shapes")
    return tmp_path / "tiny_shapes" / "1.0.0"


def legacy(name: str) -> dict:
    inside = {"type": f"{name}.Feature", "content": {}, "proto_cls": ""}
    return {"type": "tensorflow_datasets.core.features.features_dict.FeaturesDict", "content": {"kind": inside}}


def nested(features: dict, name: str) -> dict:
    features["featuresDict"]["features"]["kind"]["pythonClassName"] = f"{name}.Feature"
    return features


def in_sequence(features: dict, name: str) -> dict:
    inside = features["featuresDict"]["features"].pop("kind") | {"pythonClassName": f"{name}.Feature"}
    sequence = {"pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence"}
    features["featuresDict"]["features"]["kind"] = sequence | {"sequence": {"feature": inside, "length": "-1"}}
    return features


def in_text(features: dict, name: str) -> dict:
    inside = json.dumps({"feature": {"type": f"{name}.Feature", "content": {}}, "length": None})
    sequence = {"pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence"}
    features["featuresDict"]["features"]["kind"] = sequence | {"jsonFeature": {"json": inside}}
    return features


FORMS = {
    "outermost": lambda features, name: features | {"pythonClassName": f"{name}.Feature"},
    "snake case": lambda features, name: {"python_class_name": f"{name}.Feature"},
    "nested": nested,
    "information": nested,
    "legacy": lambda features, name: legacy(name),
    "sequence": in_sequence,
    "text": in_text,
}


@pytest.mark.parametrize("form", FORMS)
def test_no_code_that_the_data_name_is_run(copied: Path, form: str):
    """Packages in the data's folders and in the current one, on the import path, that leave a mark when imported."""
    features = FORMS[form](json.loads((copied / "features.json").read_text()), "evil")
    if form == "information":
        info = json.loads((copied / "dataset_info.json").read_text()) | {"moduleName": "evil", "features": features}
        (copied / "dataset_info.json").write_text(json.dumps(info))
    else:
        (copied / "features.json").write_text(json.dumps(features))
    root, mark = copied.parents[1], copied.parents[1] / "mark"
    for folder in (copied, copied.parent, root):
        (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()")
    program = "import sys; from research.data.tfds_source import Tfds\nTfds(*sys.argv[1:]).examples('train')"
    for paths in ([root], [copied, copied.parent]):
        done = subprocess.run(
            [sys.executable, "-c", program, "tiny_shapes", str(root)],
            cwd=root,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*paths, Path(__file__).parents[2]]))},
            capture_output=True,
            text=True,
        )
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("research.errors.UserError: TFDS data set 'tiny_shapes' has the feature 'evil.Feature'")
        assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    ["huggingface:mnist", "kaggle:mnist/a", "../mnist", "mnist/..", "/tmp/mnist", "evil.module", "mnist/a=1", "", "a b",
     "mnist:1.0.0/split=2", "mnist:experimental_latest", "mnist\n", "gs://x", "m\u00f6we"],
)  # fmt: skip
def test_names_of_other_places_are_refused(name: str):
    with pytest.raises(UserError, match=r"data\.dataset .* names no data set: use NAME"):
        Tfds(name)


def test_a_picture_that_is_a_program_goes_to_no_interpreter(data_dir: str):
    """Pillow gives EPS, which is a program, to Ghostscript, whatever the data call it."""
    features = Tfds("tiny_shapes", data_dir, keys={"label": "kind"})._builder().info.features
    with pytest.raises(ValueError, match="as neither PNG, JPEG, GIF nor BMP does"):
        features["image"].decode_example_np(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n")


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"a": NaN}', "\x00", '{"featuresDict": 3}', "[" * 5000])
@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
def test_damaged_metadata_end_in_one_sentence(copied: Path, file: str, content: str):
    (copied / file).write_text(content)
    with pytest.raises(UserError, match="TFDS data set 'tiny_shapes' ") as error:
        Tfds("tiny_shapes", str(copied.parents[1]), keys={"label": "kind"}).examples("train")
    assert "\n" not in str(error.value)


def test_files_outside_of_the_folder_and_damaged_ones(copied: Path):
    source = Tfds("tiny_shapes", str(copied.parents[1]), keys={"label": "kind"})
    stored = (copied / "dataset_info.json").read_text()
    for template in (
        "/etc/{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    ):
        info = json.loads(stored)
        for split in info["splits"]:
            split["filepathTemplate"] = template
        (copied / "dataset_info.json").write_text(json.dumps(info))
        with pytest.raises(UserError, match="outside its folder"):
            source.examples("train")
    (copied / "dataset_info.json").write_text(stored)
    (shard,) = copied.glob("*train.array_record*")
    shard.write_bytes(b"no records")
    with pytest.raises(UserError, match="restore it"):
        list(source.examples("train"))


def test_fingerprints_tell_other_data(data_dir: str, copied: Path):
    keys = {"label": "kind"}
    here, there = (Tfds("tiny_shapes", folder, keys=keys) for folder in (data_dir, str(copied.parents[1])))
    assert here.fingerprint("train") == there.fingerprint("train") != here.fingerprint("test")
    assert here.fingerprint("train") != Tfds("tiny_shapes", data_dir, keys=keys, train="train[:50%]").fingerprint(
        "train"
    )
    with (copied / "features.json").open("a") as file:
        file.write(" ")
    assert here.fingerprint("train") != there.fingerprint("train")
