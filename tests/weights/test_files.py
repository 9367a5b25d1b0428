"""Weight files are data: what would be unpickled, what is far larger than it says and what is no file is refused."""

import io
import os
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from research.errors import UserError
from research.weights.files import read_arrays


class Planted:
    """Would create a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "model.pkl"])
@pytest.mark.parametrize("in_folder", [False, True])
def test_what_would_be_unpickled_is_refused(name, in_folder, tmp_path):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(
        UserError, match=rf"{name} would have to be unpickled, .*safetensors\.torch\.save_file"
    ) as error:
        read_arrays(tmp_path if in_folder else tmp_path / name)
    assert "\n" not in str(error.value)


def test_objects_in_an_npz_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([Planted(tmp_path / "marker")], object))
    with pytest.raises(UserError, match="'x' holds objects that would have to be unpickled"):
        read_arrays(tmp_path / "a.npz")
    assert not (tmp_path / "marker").exists()


def test_an_npz_that_unpacks_to_far_more(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(10**6, np.float32))
        archive.writestr("x.npy", buffer.getvalue())
    with pytest.raises(UserError, match="it unpacks to far more than weights would"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(40), b"not a zip"])
def test_a_damaged_npz(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz cannot be read \(") as error:
        read_arrays(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_arrays_of_every_kind_are_read(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.float16([1, 2]),
        "c": np.array(7, np.int64),
        "d": np.ones((0, 3)),
    }
    save_file(arrays, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **arrays)
    for suffix in ("safetensors", "npz"):
        read = read_arrays(tmp_path / f"a.{suffix}")
        assert read.shapes == {name: array.shape for name, array in arrays.items()}
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].dtype == array.dtype


@pytest.mark.parametrize("name", ["..", "../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "x.bin"])
def test_an_index_names_files_of_its_folder_alone(name, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "%s"}}' % name)  # noqa: UP031
    with pytest.raises(UserError, match=r"names .* which is not a \.safetensors file of its folder: restore"):
        read_arrays(tmp_path)
