"""TFDS through ArrayRecord: a data set built on the spot, read in a process that must never import TensorFlow."""

import json
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
