"""The shape of a run's images: kept beside the run, found again for older ones."""

import json

import pytest

from research.data.digits import Digits
from research.data.image_folder import ImageFolder
from research.data.source import Withheld
from research.data.transforms.photo import PhotoAugmentation
from research.errors import UserError
from research.tasks.classification import Classification


def prepared(folder, source=None, **fields):
    (folder / "classes.json").write_text('["a", "b"]')
    return Classification(**fields).prepare(source or Withheld(folder), folder).image_shape


def test_it_is_found_in_the_data_and_kept(tmp_path):
    source = Digits()
    assert Classification().prepare(source, tmp_path).image_shape == (8, 8, 1)
    assert json.loads((tmp_path / "image.json").read_text()) == [8, 8, 1]
    (tmp_path / "batch.json").write_text('{"image": ["uint8", [1, 4, 4, 1]]}')
    assert prepared(tmp_path) == (8, 8, 1)


def test_images_that_are_cropped_have_the_size_of_the_source(tmp_path):
    for number, (size, shape) in enumerate([(None, (None, None, 3)), (32, (32, 32, 3))]):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert prepared(folder, ImageFolder("nowhere", size=size), photo=PhotoAugmentation()) == shape


def test_older_runs_have_it_in_other_files(tmp_path):
    with pytest.raises(UserError, match="lacks what was made of its data"):
        prepared(tmp_path)
    (tmp_path / "batch.json").write_text('{"image": ["uint8", [1, 9, 8, 3]]}')
    assert prepared(tmp_path) == (9, 8, 3) and not (tmp_path / "image.json").exists()
    (tmp_path / "config.json").write_text('{"data": {"name": "image_folder", "size": 40}}')
    assert prepared(tmp_path, photo=PhotoAugmentation()) == (40, 40, 3)
    (tmp_path / "config.json").write_text('{"data": {"name": "image_folder"}}')
    assert prepared(tmp_path, photo=PhotoAugmentation()) == (None, None, 3)


@pytest.mark.parametrize("content", ["{}", "[]", '{"image": [1]}', '{"image": ["uint8", 5]}', '{"image": ["a", [1]]}'])
def test_damaged_files_are_a_sentence(tmp_path, content):
    (tmp_path / "batch.json").write_text(content)
    with pytest.raises(UserError, match="lacks what was made of its data"):
        prepared(tmp_path)


def test_a_config_cannot_say_it(tmp_path):
    with pytest.raises(UserError, match=r"task\.image_shape is found in the data: leave it out"):
        prepared(tmp_path, image_shape=(8, 8, 1))
