"""Tables of images and captions: what is read, and each sentence that a person can be told."""

import json
import shutil
from operator import itemgetter

import numpy as np
import pytest
from PIL import Image

from research.data.captioned_images import CaptionedImages
from research.data.captioned_images import CaptionTexts as Texts
from research.data.captions import Captions, _files
from research.data.images import LabelledImages
from research.data.scenes import Scenes
from research.data.transforms.geometry import Augmentation
from research.errors import UserError
from research.runs.example_files import write_examples
from tests.captions import write_captions


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions")
    write_captions(folder)
    return folder


def test_images_and_captions_of_a_table(folder):
    source = Captions(f"{folder}/captions_train.tsv", f"{folder}/captions_val.tsv", images=f"{folder}/images", size=8)
    examples = source.examples("train")
    assert source.splits == ("train", "validation") and len(examples) == 24 and len(source.examples("validation")) == 8
    lines = (folder / "captions_train.tsv").read_text().splitlines()[1:]
    assert [f"{examples[n]['name']}\t{examples[n]['caption']}" for n in (0, 1, 23)] == [
        f"{folder}/images/{lines[n]}" for n in (0, 1, 23)
    ]
    assert examples.captions == [line.split("\t")[1] for line in lines]
    shown = np.asarray(Image.open(folder / "images" / "11.jpg").resize((8, 8), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(examples[23]["image"], shown)
    assert source.image_shape == (8, 8, 3) and len(source.paths()) == 3


def test_the_captions_of_an_image_stay_together(folder):
    source = Captions(f"{folder}/captions_train.tsv", images=f"{folder}/images", folds=4)
    names = {split: {each[1] for each in source.examples(split).entries} for split in source.splits}
    assert names["test"] == {"0.jpg", "4.jpg", "8.jpg"} and not names["train"] & (names["test"] | names["validation"])
    assert len(source.examples("test")) == 6


def test_an_archive_and_other_columns(folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", folder, "images")
    rows = '{"photo": "images\\\\1.jpg", "text": "a"}\n{"photo": "./images/2.jpg", "text": "b"}\n'
    (tmp_path / "rows.jsonl").write_text(rows)
    source = Captions(str(tmp_path / "rows.jsonl"), images=archive, keys={"image": "photo", "caption": "text"})
    assert [example["name"] for example in source.examples("train")] == [
        f"{archive}/images/1.jpg",
        f"{archive}/images/2.jpg",
    ]
    (folder / "rows.csv").write_text("images/1.jpg,7,a\n")
    source = Captions(str(folder / "rows.csv"), columns=("image", "number", "caption"))
    assert source.examples("train")[0]["image"].shape == (40, 48, 3)


def test_captions_in_cocos_form(tmp_path):
    """As `experiments.examples` writes them, and with several captions for an image."""
    scenes = Scenes(size=24, num_train=6, num_validation=2, num_test=0)
    write_examples(scenes, scenes.object_names, tmp_path / "scenes")
    folder = f"{tmp_path}/scenes"
    source = Captions(f"{folder}/captions_train.json", f"{folder}/captions_validation.json")
    for split, count in (("train", 6), ("validation", 2)):
        examples, expected = source.examples(split), scenes.examples(split)
        assert len(examples) == count
        for index in range(count):
            np.testing.assert_array_equal(examples[index]["image"], expected[index]["image"])
            assert examples[index]["caption"] == expected[index]["caption"]
            assert examples[index]["name"] == f"{folder}/images/{split}/{index}.png"
    content = json.loads((tmp_path / "scenes" / "captions_train.json").read_text())
    content["annotations"] += [{"id": 9, "image_id": 2, "caption": "a second one"}]
    (tmp_path / "more.json").write_text(json.dumps(content))
    found = [
        (each["name"], each["caption"])
        for each in Captions(f"{tmp_path}/more.json", images=f"{folder}/images").examples("train")
    ]
    assert len(found) == 7 and (f"{folder}/images/train/1.png", "a second one") == found[2]


def coco(**values):
    return json.dumps({"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []} | values)


@pytest.mark.parametrize(("text", "words"), [
    ("[1]", "a.json holds '.1.' and not a dict"),
    (coco(annotations={}), "has no lists 'images' and 'annotations': give captions in COCO's form"),
    (coco(annotations=[{"image_id": 2, "caption": "a"}]), "annotation 1 of .* is of image 2, which is not listed"),
    (coco(annotations=[{"image_id": [1], "caption": "a"}]), r"annotation 1 of .* is of image \[1\], which is not"),
    (coco(annotations=[{"image_id": 1}]), "'caption' in annotation 1 of .* is not a text"),
    (coco(images=[{"id": 1}], annotations=[{"image_id": 1, "caption": "a"}]), "'image' in annotation 1 of .* is not"),
    (coco(annotations=[{"image_id": 1, "caption": " "}]), "the caption in annotation 1 of .* is empty: write one"),
    (coco(annotations=[{"image_id": 1, "caption": "a"}]), "annotation 1 of .* names the image '1.jpg', which .*"),
    (coco(), "holds no examples"),
])  # fmt: skip
def test_captions_in_cocos_form_that_do_not_fit(text, words, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "2.jpg")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=words):
        Captions(str(tmp_path / "a.json")).examples("train")
    with pytest.raises(UserError, match=r"is COCO's JSON, which has no columns: leave data\.columns and keys out"):
        Captions(str(tmp_path / "a.json"), columns=("image", "caption")).examples("train")


@pytest.mark.parametrize(("text", "words"), [
    ("image,caption\n9.jpg,a\n", "line 2 of .* names the image '9.jpg', which .* does not have: add it"),
    ("image,caption\n1.jpg, \n", "the caption in line 2 of .* is empty: write one, or remove the line"),
    ("image,words\n1.jpg,a\n", r"line 2 of .* has no column 'caption' \(it has image, words\): set data.keys.caption"),
    ("image,caption\n../1.jpg,a\n", "line 2 of .* names the file '../1.jpg': use names below the folder of images"),
    ("image,caption\n/etc/1.jpg,a\n", "line 2 of .* names the file '/etc/1.jpg': use names below"),
    ("image,caption\n\\etc\\1.jpg,a\n", "use names below the folder of images"),
    ("image,caption\nC:\\1.jpg,a\n", "use names below the folder of images"),
    ("image,caption\n", "holds no examples"),
])  # fmt: skip
def test_tables_that_do_not_fit(text, words, tmp_path):
    _files.cache_clear()
    Image.new("RGB", (4, 4)).save(tmp_path / "1.jpg")
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        Captions(str(tmp_path / "a.csv")).examples("train")


def test_keys_of_another_kind_and_a_file_that_is_not_an_image(tmp_path):
    with pytest.raises(UserError, match=r"data\.keys has source: use image and caption"):
        Captions("a.csv", keys={"source": "x"})
    _files.cache_clear()
    (tmp_path / "1.jpg").write_bytes(b"\xff\xd8\xffnothing")
    (tmp_path / "a.csv").write_text("image,caption\n1.jpg,a\n")
    with pytest.raises(UserError, match=r"1\.jpg cannot be read as an image"):
        Captions(str(tmp_path / "a.csv")).examples("train")[0]


class Counted(list):
    """Examples that count how often one is read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def test_an_example_is_read_once_for_its_image_and_its_caption():
    examples = Counted({"image": np.full((2, 2, 1), n, np.uint8), "caption": str(n)} for n in range(5))
    images = LabelledImages(examples, Augmentation(), 0)
    rows = CaptionedImages(images, lambda given: {"caption": np.array([int(each["caption"]) for each in given])})
    batch = rows.batch(np.array([3, 1, 3]), np.array([0, 0, 1]), None)
    assert batch["caption"].tolist() == batch["image"][:, 0, 0, 0].tolist() == [3, 1, 3] and examples.reads == 2


def test_captions_for_a_vocabulary_are_told_or_sampled(monkeypatch):
    monkeypatch.setattr("research.data.captioned_images.SAMPLE", 3)
    examples = Counted({"caption": str(n)} for n in range(5))
    assert [each["caption"] for each in Texts(examples, itemgetter("caption"))] == ["0", "2", "4"]
    examples.captions = list("abcde")
    examples.reads = 0
    assert [each["caption"] for each in Texts(examples, itemgetter("caption"))] == list("abcde") and not examples.reads
