"""Masked autoencoders that were trained here, as transformers reads them."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from experiments.train import train
from research.errors import UserError
from research.layers.positions import sincos_2d
from research.weights.match import check, read
from research.weights.published import read_published
from tests.runs.test_weights import arrays_of, command


@pytest.mark.parametrize("longest", [True, False])
def test_a_masked_autoencoder_is_published_and_read_again(longest, tmp_path):
    """Bit for bit, with the positions, which are parameters there; the file says which wavelengths they have."""
    run, out = tmp_path / "run", tmp_path / "out"
    random = np.random.default_rng(0)
    places = itertools.product(("train", "val"), "ab", range(8))
    for name in (f"{split}/{label}/{number}.png" for split, label, number in places):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / name)
    sizes = {"data.size": 8, "task.patch_size": 2, "training.precision": "params=float32,compute=float32"}
    changes = {"training.duration": {"steps": 1}, "model.longest_wave": longest, **sizes}
    train(f"configs/vision/mae.py:data=imagenet,folder={tmp_path},tiny", run, changes)
    command("export", run, out)
    again = read_published(out)
    check(again.match, "what was exported")
    assert again.model.longest_wave == longest and again.image_size == 8
    before = arrays_of(run)
    after = {f"params/{path}": array for path, array in read(again.match, again.arrays)}
    assert before.keys() == after.keys() and all(np.array_equal(before[path], after[path]) for path in before)
    file = load_file(out / "model.safetensors")
    table = file["decoder.decoder_pos_embed"]
    np.testing.assert_array_equal(table, np.pad(sincos_2d(4, 4, 16, longest=longest), [(1, 0), (0, 0)])[None])
    pixels = json.loads((out / "preprocessor_config.json").read_text())
    assert pixels["size"] == {"height": 8, "width": 8} and pixels["image_mean"] == [0.5] * 3
    save_file({name: array.astype(np.float16) for name, array in file.items()}, out / "model.safetensors")
    check((again := read_published(out)).match, "half precision")
    assert again.model.longest_wave == longest
    save_file(file | {"decoder.decoder_pos_embed": table + 0.1}, out / "model.safetensors")
    with pytest.raises(UserError, match=r"decoder\.decoder_pos_embed unlike what follows from config\.json: ") as error:
        check((changed := read_published(out)).match, "it")
    assert "\n" not in str(error.value) and changed.match.unlike
