"""What is written is read back as it was."""

import json

import numpy as np
import pytest

from research.data.coco import Coco
from research.data.image_masks import ImageMasks
from research.data.listops import ListOps
from research.data.scenes import Scenes
from research.errors import UserError
from research.runs.example_files import write_examples


def test_scenes_as_files_are_the_same_scenes(tmp_path):
    scenes = Scenes(size=48, num_train=12, num_validation=3, num_test=1)
    folder = tmp_path / "scenes"
    assert write_examples(scenes, scenes.object_names, folder) == {"train": 12, "validation": 3, "test": 1}
    boxes = Coco(f"{folder}/instances_train.json", validation_path=f"{folder}/instances_validation.json")
    masks = ImageMasks(str(folder), scenes.class_names, images="images/train", masks="masks/train")
    assert boxes.class_names == scenes.object_names and not boxes.left_out("train")
    captions = json.loads((folder / "captions_train.json").read_text())["annotations"]
    every = zip(*(source.examples("train") for source in (scenes, boxes, masks)), captions, strict=True)
    for scene, box, mask, caption in every:
        for name in ("image", "boxes", "objects"):
            np.testing.assert_array_equal(box[name], scene[name])
        numbers = range(1, len(scene["objects"]) + 1)
        np.testing.assert_array_equal(box["areas"], [(scene["instances"] == number).sum() for number in numbers])
        np.testing.assert_array_equal(mask["mask"], scene["mask"])
        assert caption["caption"] == scene["caption"]
    np.testing.assert_array_equal(boxes.examples("validation")[2]["image"], scenes.examples("validation")[2]["image"])


def test_nothing_is_written_over_and_texts_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="is there already: give a new folder"):
            write_examples(Scenes(), (), path)
    with pytest.raises(UserError, match=r"the config's data have no images: give one of images"):
        write_examples(ListOps(size=100), (), tmp_path / "new")
    assert (tmp_path / "file").read_text() == "mine"
