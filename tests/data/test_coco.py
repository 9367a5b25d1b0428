"""The three forms of boxes against the boxes they were made of, and what is refused or left out."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from research.data.box_files import read_annotations
from research.data.coco import Coco
from research.errors import UserError
from tests.boxes import write_boxes

BOXES = {"a.png": [([2, 3, 10, 9], "cat")], "b.png": [([0, 0, 20, 16], "dog"), ([5, 6, 8, 9], "cat")], "c.png": []}
WIDTH, HEIGHT = 20, 16


def images_in(folder):
    folder.mkdir(parents=True)
    for number, name in enumerate(BOXES):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), number, np.uint8)).save(folder / name)


def coco(folder, change=lambda content: None):
    images_in(folder / "images")
    ids = {name: 7 * number + 3 for number, name in enumerate(BOXES)}
    marks = [(name, box, kind) for name, marked in BOXES.items() for box, kind in marked]
    content = {
        "images": [{"id": ids[name], "file_name": name, "width": WIDTH, "height": HEIGHT} for name in BOXES],
        "categories": [{"id": 2, "name": "cat"}, {"id": 90, "name": "dog"}],
        "annotations": [
            {
                "id": number,
                "image_id": ids[name],
                "category_id": 2 if kind == "cat" else 90,
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "area": 11.5,
                "iscrowd": 0,
            }
            for number, (name, box, kind) in enumerate(marks)
        ],
    }
    change(content)
    (folder / "boxes.json").write_text(json.dumps(content))
    return str(folder / "boxes.json")


def yolo(folder):
    images_in(folder / "images" / "train")
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "classes.txt").write_text("cat\ndog\n")
    for name, marked in BOXES.items():
        lines = []
        for (left, top, right, bottom), kind in marked:
            sides = (left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT, (right - left) / WIDTH
            lines.append(" ".join(map(str, (int(kind == "dog"), *sides, (bottom - top) / HEIGHT))))
        if marked:  # without a text an image has no objects
            (folder / "labels" / "train" / name.replace("png", "txt")).write_text("\n".join(lines) + "\n")
    return str(folder / "images" / "train")


OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox>{}</bndbox></object>"
FILE = "<annotation><filename>{}</filename><size><width>20</width><height>16</height></size>{}</annotation>"


def voc(folder):
    images_in(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    for name, marked in BOXES.items():
        things = ""
        for (left, top, right, bottom), kind in marked:
            named = zip(("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, right, bottom), strict=True)
            things += OBJECT.format(kind, 0, "".join(f"<{side}>{number}</{side}>" for side, number in named))
        (folder / "Annotations" / name.replace("png", "xml")).write_text(FILE.format(name, things))
    return str(folder / "Annotations")


@pytest.mark.parametrize("form", [coco, yolo, voc])
def test_every_form_gives_the_same_boxes(form, tmp_path):
    source = Coco(form(tmp_path))
    assert source.class_names == ("cat", "dog") and source.splits == ("train",) and not source.left_out("train")
    examples = source.examples("train")
    assert len(examples) == 3 and examples.box_counts == [1, 2, 0]
    for number, (example, marked) in enumerate(zip(examples, BOXES.values(), strict=True)):
        assert example["image"].shape == (HEIGHT, WIDTH, 3) and (example["image"] == number).all()
        np.testing.assert_allclose(example["boxes"], np.reshape([box for box, _ in marked], (-1, 4)), atol=1e-5)
        assert example["objects"].tolist() == [int(kind == "dog") for _, kind in marked]
        areas = [11.5 if form is coco else (box[2] - box[0]) * (box[3] - box[1]) for box, _ in marked]
        np.testing.assert_allclose(example["areas"], areas, rtol=1e-5)
        assert not example["crowd"].any() and len(example["crowd"]) == len(marked)


def test_a_list_of_names_is_a_part_of_voc(tmp_path, monkeypatch):
    voc(tmp_path)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("c\nb  1\n")
    source = Coco(str(tmp_path / "ImageSets" / "Main" / "train.txt"))
    assert [entry.name for entry in source.examples("train").entries] == ["c.png", "b.png"]
    monkeypatch.chdir(tmp_path / "ImageSets" / "Main")
    assert [entry.name for entry in Coco("train.txt").examples("train").entries] == ["c.png", "b.png"]
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("../../secret\n")
    with pytest.raises(UserError, match=r"names the file '../../secret.xml': use names below the folder"):
        Coco(str(tmp_path / "ImageSets" / "Main" / ".." / "Main" / "train.txt")).examples("train")


def test_difficult_objects_and_crowds_are_marked(tmp_path):
    voc(tmp_path / "voc")
    box = "<xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax>"
    (tmp_path / "voc" / "Annotations" / "a.xml").write_text(FILE.format("a.png", OBJECT.format("cat", 1, box)))
    assert Coco(str(tmp_path / "voc" / "Annotations")).examples("train")[0]["crowd"].tolist() == [True]
    path = coco(tmp_path / "coco", lambda content: content["annotations"][1].update(iscrowd=1))
    assert Coco(path).examples("train")[1]["crowd"].tolist() == [True, False]
    assert Coco(path).examples("train").box_counts == [1, 1, 0]


def changed(place, **fields):
    return lambda content: content["annotations"][place].update(fields)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (changed(0, bbox=[2, 3, 0, 5]), "1 box of .*boxes.json have no area, left out: annotation 0"),
        (changed(0, bbox=[2, 3, 4, -5]), "have no area, left out: annotation 0"),
        (changed(0, bbox=[25, 3, 4, 5]), "lie outside of their image, left out: annotation 0"),
        (changed(0, bbox=[2, 3, 1e999, 5]), "have sides that are not finite numbers, left out"),
        (changed(0, bbox=[2, 3, 10**400, 5]), "have sides that are not finite numbers, left out"),
        (changed(0, bbox=[2, 3, 4]), "have a bbox that is not four numbers, left out: annotation 0"),
        (changed(0, bbox="2 3 4 5"), "have a bbox that is not four numbers, left out"),
        (changed(0, image_id=99), "are of images that are not listed, left out: annotation 0"),
        (changed(0, image_id=[1]), "are of images that are not listed, left out"),
        (changed(0, category_id=1), "are of categories that are not listed, left out: annotation 0"),
    ],
)
def test_boxes_that_cannot_be_are_left_out_and_counted(change, sentence, tmp_path):
    path = coco(tmp_path)
    content = json.loads((tmp_path / "boxes.json").read_text())
    change(content)
    (tmp_path / "boxes.json").write_text(json.dumps(content).replace("Infinity", "1e999"))
    (found,) = Coco(path).left_out("train")
    assert re.search(sentence, found)
    assert Coco(path).examples("train").box_counts == [0, 2, 0]


def test_a_box_over_the_edge_is_cut_which_is_said_beyond_a_pixel(tmp_path):
    path = coco(tmp_path, changed(0, bbox=[15, 10, 20, 20]))
    (sentence,) = Coco(path).left_out("train")
    assert sentence.endswith("reach over the edge of their image, and are cut there: annotation 0")
    assert Coco(path).examples("train")[0]["boxes"].tolist() == [[15, 10, 20, 16]]
    assert not Coco(coco(tmp_path / "b", changed(0, bbox=[15, 10, 5.5, 6]))).left_out("train")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.pop("annotations"), "has no list 'annotations': give annotations in COCO's form"),
        (lambda c: c.update(images=[1]), "has no list 'images'"),
        (lambda c: c["categories"].clear(), r"has 0 classes \(\): give one or more, each with a"),
        (lambda c: c["categories"].append({"id": 4, "name": "\ud800"}), "has 3 classes .*: give one or more"),
        (lambda c: c["categories"].append({"id": 4, "name": " "}), "has 3 classes"),
        (lambda c: c["categories"].append({"id": 4, "name": "cat"}), r"3 classes \(cat, dog, cat\): give one or more"),
        (lambda c: c["categories"].append({"id": 2, "name": "x"}), "two categories of .* have the id 2: give each its"),
        (lambda c: c["images"].append(c["images"][0]), "two images of .* have the id 3: give each its own"),
        (lambda c: c["images"][1].pop("width"), "number 2 of the images of .* has no valid 'width': give it one"),
        (lambda c: c["images"][1].update(width=True), "number 2 of the images of .* has no valid 'width'"),
        (lambda c: c["images"][1].update(height=0), "image 10 of .* has no size: give its height and width"),
        (
            lambda c: c["images"][1].update(file_name="../a.png"),
            "names the file '../a.png': use names below the folder",
        ),
        (lambda c: c["images"][1].update(file_name="/etc/passwd"), "names the file '/etc/passwd'"),
        (lambda c: c["images"][1].update(file_name="d.png"), r"1 of 3 images are not in .* \(the first is d.png\)"),
    ],
)
def test_annotations_that_are_not_coco_s_are_refused(change, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        Coco(coco(tmp_path, change)).examples("train")


@pytest.mark.parametrize("text", ["{", "[1]", "\ufeff{}", "[" * 100_000, '{"images": NaN}'])
def test_files_that_are_not_json_are_refused(text, tmp_path):
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(UserError, match=r"is not JSON|has no list 'images'"):
        Coco(str(tmp_path / "boxes.json")).examples("train")


def test_an_image_of_another_size_is_refused(tmp_path):
    path = coco(tmp_path, lambda content: content["images"][1].update(width=22))
    with pytest.raises(UserError, match=r"b\.png has 16 x 20 pixels and its annotations say 16 x 22: correct one"):
        Coco(path).examples("train")[1]


def test_splits_have_the_same_categories(tmp_path):
    train = coco(tmp_path / "train")
    other = coco(tmp_path / "other", lambda content: content["categories"][0].update(name="cow"))
    source = Coco(train, validation_path=other)
    assert source.splits == ("train", "validation")
    with pytest.raises(UserError, match="validation has the classes cow, dog and training cat, dog: use annotations"):
        source.examples("validation")
    fewer = coco(tmp_path / "fewer", lambda content: content["categories"].pop())
    with pytest.raises(UserError, match="test has the classes cat and training cat, dog"):
        Coco(train, test_path=fewer).examples("test")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "declares a DOCTYPE or entities"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "declares a DOCTYPE or entities"),
        ("<annotation>", "is not XML"),
        ("<annotation/>", "has size/height '' in an XML file: give what Pascal VOC has there"),
        (FILE.format("../x.png", ""), "names the file '../x.png'"),
        (FILE.format("a.png", OBJECT.format("cat", 0, "<xmin>x</xmin>")), "<object> has bndbox/xmin 'x'"),
    ],
)
def test_xml_that_is_not_voc_s_is_refused(text, sentence, tmp_path):
    path = voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        Coco(path).examples("train")


def test_xml_in_another_encoding_hides_no_declaration(tmp_path):
    path = voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_bytes('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'.encode("utf-16"))
    with pytest.raises(UserError, match="declares a DOCTYPE or entities, or is not UTF-8"):
        Coco(path).examples("train")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("cat 0.5 0.5 0.1 0.1", "line 1 of a.txt is not a class and four numbers"),
        ("0 0.5 0.5 0.1", "line 1 of a.txt is not a class and four numbers"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", "line 1 of a.txt is not a class and four numbers"),
    ],
)
def test_lines_that_are_not_yolo_s_are_refused(line, sentence, tmp_path):
    path = yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text(line)
    with pytest.raises(UserError, match=sentence):
        Coco(path).examples("train")


def test_yolo_s_numbers_need_names(tmp_path):
    path = yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text("7 0.5 0.5 0.1 0.1\n0 nan 0.5 0.1 0.1\n")
    sentences = Coco(path).left_out("train")
    assert "are of classes without a name, left out: line 1 of a.txt" in sentences[0]
    assert "have sides that are not finite numbers, left out: line 2 of a.txt" in sentences[1]
    assert Coco(path, classes=("x", "y")).class_names == ("x", "y")
    path = yolo(tmp_path / "unnamed")
    (tmp_path / "unnamed" / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"has numbers for classes: name them in .*classes.txt or with data.classes"):
        Coco(path).examples("train")


def test_other_paths_are_refused(tmp_path):
    (tmp_path / "things").mkdir()
    with pytest.raises(UserError, match=r"holds no XML files and has no folder 'images' in its name: give a COCO JSON"):
        Coco(str(tmp_path / "things")).examples("train")
    with pytest.raises(UserError, match=r"cannot be read .*: give a file of annotations"):
        Coco(str(tmp_path / "none.json")).examples("train")


def test_the_folder_of_the_tests_has_every_split(tmp_path):
    folder = write_boxes(tmp_path)
    source = Coco(f"{folder}/instances_train.json", validation_path=f"{folder}/instances_val.json")
    assert source.class_names == ("cell", "plate") and source.examples("validation").box_counts == [0, 1, 2] * 3
    assert source.paths() == (f"{folder}/instances_train.json", f"{folder}/instances_val.json")
    assert source.fingerprint("train") != source.fingerprint("validation")


def test_classes_of_a_model_that_knows_more_than_the_file(tmp_path):
    """Categories by their names, at the places that these classes have there."""
    path = coco(tmp_path)
    source = Coco(path, validation_path=path, classes=("N/A 0", "dog", "N/A 2", "cat"))
    assert source.class_names == ("N/A 0", "dog", "N/A 2", "cat")
    for split in source.splits:
        for example, marked in zip(source.examples(split), BOXES.values(), strict=True):
            assert example["objects"].tolist() == [1 if kind == "dog" else 3 for _, kind in marked]

    def twice(content):
        content["categories"].append({"id": 91, "name": "dog"})

    with pytest.raises(UserError, match=r"3 classes \(cat, dog, dog\): give one or more, each with a name of its"):
        Coco(coco(tmp_path / "twice", twice), classes=("cat", "dog")).examples("train")


def test_what_has_no_meaning_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has the category dog, which data\.classes does not list: add it"):
        Coco(coco(tmp_path / "coco"), classes=("zebra", "cat")).examples("train")
    with pytest.raises(UserError, match=r"holds the images of YOLO itself: leave data\.images '/nowhere' out"):
        Coco(yolo(tmp_path / "yolo"), images="/nowhere").examples("train")


def test_names_in_other_spellings_are_the_same_files(tmp_path):
    def longer(content):
        content["images"][0]["file_name"] = "./" + content["images"][0]["file_name"]

    examples = Coco(coco(tmp_path, longer)).examples("train")
    assert not examples.entries[0].name.startswith(".") and examples[0]["image"].ndim == 3


def test_images_of_yolo_in_folders_within_the_folder(tmp_path):
    path = Path(yolo(tmp_path))
    before = len(Coco(str(path)).examples("train"))
    labels = tmp_path / "labels" / "train"
    for folder in (path, labels):
        (folder / "more").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path / "more" / "z.png")
    (labels / "more" / "z.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    found = {entry.name: entry for entry in read_annotations(str(path), None, ()).entries}
    assert len(found) == before + 1 and len(found["more/z.png"].boxes) == 1
