"""What is said beside published weights of images and texts: done as transformers does it, or refused."""

import json
import shutil
from pathlib import Path

import pytest

from research.data.boxed_images import fitting
from research.errors import UserError
from research.weights.preprocessing import photo_of, windows_of
from research.weights.published import family_of, image_size, labels_of, read_published
from research.weights.vocabularies import vocabulary_of

CLIP = {"image_processor_type": "CLIPImageProcessor", "resample": 3, "do_center_crop": True}
CLIP |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"shortest_edge": 32}, "crop_size": 24}


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((480, 640), (800, 1066)),
        ((640, 480), (1066, 800)),
        ((425, 640), (800, 1204)),
        ((426, 640), (800, 1201)),
        ((612, 640), (800, 836)),
        ((800, 900), (800, 900)),
        ((300, 900), (444, 1333)),
    ],
)
def test_images_with_boxes_get_the_size_of_the_published_code(sides, expected):
    """As transformers' DetrImageProcessor resizes to a shorter side of 800 and at most 1333."""
    assert fitting(*sides, 1333, 800) == expected


def test_a_processor_that_is_done_here(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CLIP))
    fields = photo_of(tmp_path, {}, 32)
    assert fields["photo"] == {"size": 24, "interpolation": "bicubic", "crop_fraction": 0.75}
    assert fields["mean"] == (0.5,) * 3 and fields["deviation"] == (0.25,) * 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"do_rescale": False}, "do_rescale off"),
        ({"rescale_factor": 1 / 127.5}, "another rescale_factor than 1/255"),
        ({"do_resize": False}, "do_resize or do_rescale off"),
        ({"do_center_crop": "false"}, "do_center_crop 'false': it has to be true or false"),
        ({"crop_size": {"height": 24, "width": 12}}, "only square ones are known here"),
        ({"size": {"height": 24, "width": 48}}, "only square ones are known here"),
        ({"crop_size": 48}, "cuts 48 pixels out of images of 32"),
        ({"resample": [3]}, "resizes with filter"),
        ({"image_mean": None, "resample": None}, "of a CLIPImageProcessor does not say resample"),
    ],
)
def test_a_processor_that_is_not_done_here_is_refused(changes, sentence, tmp_path):
    stored = {key: value for key, value in {**CLIP, **changes}.items() if value is not None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=sentence) as error:
        photo_of(tmp_path, {}, 32)
    assert "\n" not in str(error.value) and "preprocessor_config.json" in str(error.value)


def test_windows_of_other_pixels_are_refused(tmp_path):
    stored = {"image_processor_type": "SegformerImageProcessor", "do_rescale": False, "size": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match="do_rescale off"):
        windows_of(tmp_path, 3)


def test_upper_case_counts_where_the_published_tokenizer_says_so(tmp_path):
    """Tokens of a cased BERT, by its vocabulary: transformers' BertTokenizer gives these too."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "John", "john", "lives", "cafe", "café"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    assert vocabulary_of(tmp_path, 10).encode("John café") == [6, 8]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert vocabulary_of(tmp_path, 10).encode("John café") == [5, 9]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "strip_accents": False}))
    assert vocabulary_of(tmp_path, 10).encode("John café") == [6, 9]
    bad = {"neither true nor false": {"do_lower_case": "no"}, "Chinese": {"tokenize_chinese_chars": False}}
    for sentence, stored in bad.items():
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(stored))
        with pytest.raises(UserError, match=sentence):
            vocabulary_of(tmp_path, 10)


def test_values_of_another_kind_in_config_json_are_one_sentence():
    with pytest.raises(UserError, match="not a model that is known here"):
        family_of({"model_type": "bert", "architectures": [["BertModel"]]})
    with pytest.raises(UserError, match="id2label that is not texts"):
        labels_of({"id2label": {"0": ["A", 0]}})
    with pytest.raises(UserError, match="num_labels x"):
        labels_of({"num_labels": "x"})
    assert labels_of({"num_labels": 3}) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    first = {"vision_config": {"image_size": 224}, "vision_config_dict": {"image_size": 336}}
    assert image_size(first) == 336


def test_images_that_are_not_whole_patches_are_refused(tmp_path):
    folder = tmp_path / "siglip"
    shutil.copytree(Path(__file__).resolve().parents[1] / "fixtures" / "transformers" / "siglip", folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["image_size"] = 20
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"images of 20 pixels in patches of 8: only whole patches are known here"):
        read_published(folder)
