"""A published SegFormer and a UPerNet as runs of segmentation, by the commands that a person types."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import research.runs
from experiments import evaluate, predict
from research.errors import UserError
from research.runs.experiment import open_run
from research.weights.match import read
from research.weights.published import read_published
from tests.runs.test_weights import GOLDEN, arguments_of, arrays_of, changed, command

PIXELS = {"size": {"height": 64, "width": 64}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.2]}
PIXELS |= {"image_processor_type": "SegformerImageProcessor", "do_reduce_labels": True}


def copied(name, tmp_path):
    folder = tmp_path / name
    shutil.copytree(GOLDEN / name, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return folder


@pytest.fixture
def source(tmp_path):
    return copied("segformer", tmp_path)


@pytest.fixture
def upernet(tmp_path):
    return copied("upernet", tmp_path)


def test_a_segformer_becomes_a_run_and_the_same_again(source, tmp_path, capsys):
    run, out, again = tmp_path / "run", tmp_path / "out", tmp_path / "again"
    command("import", source, run, "--reference", source / "answers.safetensors")
    assert "largest difference from the reference" in capsys.readouterr().out
    command("verify", run)
    command("export", run, out)
    command("import", out, again)
    before, after = arrays_of(run), arrays_of(again)
    assert before.keys() == after.keys() and all(np.array_equal(before[path], after[path]) for path in before)
    exported, original = (load_file(folder / "model.safetensors") for folder in (out, source))
    counts = {name for name in original if name.endswith("num_batches_tracked")}
    assert exported.keys() == original.keys() - counts
    exact = [name for name in exported if not name.endswith("running_var")]
    assert all(np.array_equal(exported[name], original[name]) for name in exact)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (source, out)]
    assert {key: configs[1].get(key) for key in configs[0]} == configs[0]
    pixels = json.loads((out / "preprocessor_config.json").read_text())
    assert {key: pixels[key] for key in PIXELS} == PIXELS


def test_commands_of_an_imported_segformer(source, tmp_path, capsys):
    """Masks whose 0 is no class, as the published model's were; the mean and the deviation are those of its file."""
    run, photos = tmp_path / "run", tmp_path / "photos"
    command("import", source, run)
    for name in ("images", "masks"):
        (photos / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(random.integers(0, 256, (70, 64, 3), np.uint8)).save(photos / "images" / f"{number}.png")
        Image.fromarray(random.integers(0, 6, (70, 64), np.uint8)).save(photos / "masks" / f"{number}.png")
    item = str(photos / "images" / "0.png")
    (answer,) = research.runs.open(run).answer([item])
    assert answer["mask"]["size"] == [70, 64] and answer["classes"] == [f"LABEL_{number}" for number in range(5)]
    predict.main(arguments_of(run, inputs=[item], format="text", pictures=None))
    overrides = {"data.path": str(photos), "data.test": 1}
    evaluate.main(arguments_of(run, splits=["test"], samples=0, overrides=overrides, name=None, heads=None,
                               alignments=None))  # fmt: skip
    assert "test/miou" in capsys.readouterr().out
    task = open_run(run).task
    whole = np.full((1, 64, 64, 3), 255, np.uint8)
    expected = (1 - np.array(PIXELS["image_mean"])) / PIXELS["image_std"]
    np.testing.assert_allclose(jax.device_get(task.normalised(whole))[0, 0, 0], expected, rtol=1e-5)


def other_classes(folder):
    changed(folder, id2label={str(number): str(number) for number in range(4)})


def preprocessing(folder, **values):
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS | values))


def many_classes(folder):
    other = {str(number): str(number) for number in range(256)}
    changed(folder, id2label=other)
    arrays = load_file(folder / "model.safetensors")
    arrays["decode_head.classifier.weight"] = np.zeros((256, 12, 1, 1), np.float32)
    save_file(arrays | {"decode_head.classifier.bias": np.zeros(256, np.float32)}, folder / "model.safetensors")


WRONG = {
    "widths": (lambda f: changed(f, hidden_sizes=[8, 8, 16, 32]), r"\d+ shapes differ \("),
    "five stages": (lambda f: changed(f, hidden_sizes=[8] * 5), r"config\.json\.widths"),
    "no heads": (lambda f: changed(f, num_attention_heads=[3, 2, 2, 4]), "width 8 is not divisible by num_heads 3"),
    "reductions": (lambda f: changed(f, sr_ratios=[4, 4, 2, 1]), r"self\.sr\.weight is \(8, 8, 8, 8\) and not"),
    "mixed expansions": (lambda f: changed(f, mlp_ratios=[4, 4, 4, 2]), "mlp_ratios .*only four equal ones"),
    "expansions of no kind": (lambda f: changed(f, mlp_ratios=7), "mlp_ratios 7: only four equal ones"),
    "strides": (lambda f: changed(f, strides=[2, 2, 2, 2]), r"strides \[2, 2, 2, 2\]: only models with \[4, 2, 2, 2\]"),
    "other classes": (other_classes, r"classifier\.(weight|bias) is \(5.*\) and not \(4"),
    "more classes than a mask holds": (many_classes, "has 256 classes: only 255 fit the pixels of a mask"),
    "no preprocessing": (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config.json, which"),
    "oblong": (lambda f: preprocessing(f, size={"height": 64, "width": 32}), "only square ones are known here"),
    "no size": (lambda f: preprocessing(f, size="large"), "has no size in pixels"),
    "no colours": (lambda f: preprocessing(f, image_mean=[0.5]), "the mean of the pixels is .*one number for each"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_segformer_is_one_sentence(name, source, tmp_path):
    spoil, sentence = WRONG[name]
    spoil(source)
    with pytest.raises(UserError, match=sentence) as error:
        command("import", source, tmp_path / "run")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert {path.name for path in tmp_path.iterdir()} == {"segformer"}


def test_a_upernet_becomes_a_run_and_the_same_again(upernet, tmp_path, capsys):
    """Without the head that answers nothing, and a norm that no level passes."""
    run, out, again = tmp_path / "run", tmp_path / "out", tmp_path / "again"
    command("import", upernet, run, "--reference", upernet / "answers.safetensors")
    said = capsys.readouterr().out
    assert "largest difference from the reference" in said
    assert "left out: auxiliary_head.classifier.bias (a second head, which helps" in said
    command("export", run, out)
    command("import", out, again)
    before, after = arrays_of(run), arrays_of(again)
    assert before.keys() == after.keys() and all(np.array_equal(before[path], after[path]) for path in before)
    exported, original = (load_file(folder / "model.safetensors") for folder in (out, upernet))
    left = ("num_batches_tracked", "swin.layernorm.weight", "swin.layernorm.bias")
    kept = {name for name in original if not name.startswith("auxiliary_head.") and not name.endswith(left)}
    assert exported.keys() == kept
    assert all(np.array_equal(exported[name], original[name]) for name in kept if not name.endswith("running_var"))
    configs = [json.loads((folder / "config.json").read_text()) for folder in (upernet, out)]
    backbones = [config.pop("backbone_config") for config in configs]
    assert {key: configs[1].get(key) for key in configs[0]} == configs[0] | {"use_auxiliary_head": False}
    assert backbones[1].items() <= backbones[0].items()
    model = open_run(run).model
    assert model.backbone.norm_levels and model.backbone.stochastic_depth == 0.1
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    (answer,) = research.runs.open(run).answer([image])
    assert answer["mask"]["size"] == [70, 90]


def test_other_spellings_of_a_upernet_are_the_same_arrays(upernet):
    """Those that transformers 5 has before it saves them."""
    expected = read_published(upernet)
    arrays = load_file(upernet / "model.safetensors")
    changes = {"backbone.e": "backbone.swin.e", "attention.output.dense": "attention.o_proj", "output.dense": "mlp.fc2"}
    changes |= {"intermediate.dense": "mlp.fc1", "attention.self.rel": "attention.relative_position_bias.rel"}
    changes |= {f"attention.self.{name}": f"attention.{name[0]}_proj" for name in ("query", "key", "value")}
    spelt = {}
    for name, array in arrays.items():
        for old, new in changes.items():
            name = name.replace(old, new)
        spelt[name] = array
    save_file(spelt, upernet / "model.safetensors")
    found = read_published(upernet)
    assert found.match.fits and len(arrays.keys() - found.arrays.keys()) > 80
    ours = dict(read(expected.match, arrays))
    assert all(np.array_equal(array, ours[path]) for path, array in read(found.match, found.arrays))


def backbone(folder, **values):
    stored = json.loads((folder / "config.json").read_text())["backbone_config"]
    changed(folder, backbone_config=stored | values)


WRONG_UPERNET = {
    "another backbone": (lambda f: backbone(f, model_type="convnext"), "the backbone convnext: only Swin Transformers"),
    "no backbone": (lambda f: changed(f, backbone_config=None), "the backbone None: only Swin Transformers are known"),
    "levels": (lambda f: backbone(f, out_indices=[1, 3]), r"takes the levels \[1, 3\] of its backbone: only all are"),
    "absolute positions": (lambda f: backbone(f, use_absolute_embeddings=True), "use_absolute_embeddings true: only"),
    "width": (lambda f: changed(f, hidden_size=16), r"\d+ shapes differ \(decode_head\."),
    "pools": (
        lambda f: changed(f, pool_scales=[1, 2, 3]),
        r"has decode_head\.psp_modules\.3\..*, which the model lacks",
    ),
    "pools of no size": (lambda f: changed(f, pool_scales=[0]), r"config\.json\.pool_scales"),
    "depths": (lambda f: backbone(f, depths=7), r"takes the levels \[1, 2, 3\] of its backbone"),
}


@pytest.mark.parametrize("name", WRONG_UPERNET)
def test_what_is_wrong_with_a_upernet_is_one_sentence(name, upernet, tmp_path):
    spoil, sentence = WRONG_UPERNET[name]
    spoil(upernet)
    with pytest.raises(UserError, match=sentence) as error:
        command("import", upernet, tmp_path / "run")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert {path.name for path in tmp_path.iterdir()} == {"upernet"}
