"""A published DETR as a run of detection, by the commands that a person types."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import research.runs
from experiments import evaluate, predict
from experiments.train import train
from research.errors import UserError
from research.runs.experiment import open_run
from research.weights.match import read
from research.weights.preprocessing import boxed_of
from research.weights.published import read_published
from tests.boxes import write_boxes
from tests.runs.test_weights import GOLDEN, arguments_of, arrays_of, changed, command

PIXELS = {
    "size": {"shortest_edge": 32, "longest_edge": 48},
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.2],
}
PIXELS |= {"image_processor_type": "DetrImageProcessor", "format": "coco_detection", "do_pad": True}
COCO = ["N/A", "cell", "plate", "N/A"]
"""As in the published model's config, two numbers have no class, and the one that is none of all is not counted."""


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "detr"
    shutil.copytree(GOLDEN / "detr", folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    changed(folder, id2label=dict(enumerate(COCO)), label2id={name: COCO.index(name) for name in COCO})
    return folder


def as_timm(name):
    """The name that a file has whose backbone is timm's ResNet-50, as in the model that was published."""
    before, _, rest = name.partition("backbone.conv_encoder.model.")
    if not rest:
        return name
    kinds = {"convolution": "conv", "normalization": "bn"}
    if found := re.fullmatch(r"embedder\.embedder\.(\w+)\.(\w+)", rest):
        rest = f"{kinds[found[1]]}1.{found[2]}"
    elif found := re.fullmatch(r"encoder\.stages\.(\d)\.layers\.(\d)\.layer\.(\d)\.(\w+)\.(\w+)", rest):
        rest = f"layer{int(found[1]) + 1}.{found[2]}.{kinds[found[4]]}{int(found[3]) + 1}.{found[5]}"
    else:
        found = re.fullmatch(r"encoder\.stages\.(\d)\.layers\.(\d)\.shortcut\.(\w+)\.(\w+)", rest)
        rest = f"layer{int(found[1]) + 1}.{found[2]}.downsample.{int(found[3] == 'normalization')}.{found[4]}"
    return f"{before}backbone.conv_encoder.model.{rest}"


def in_memory(name):
    """As transformers 5 has it before it is saved."""
    name = name.replace("backbone.conv_encoder.", "backbone.")
    return re.sub(r"(layers\.\d\.)(fc\d)", r"\1mlp.\2", name.replace("out_proj", "o_proj"))


def test_a_detr_becomes_a_run_and_the_same_again(source, tmp_path, capsys):
    run, out, again = tmp_path / "run", tmp_path / "out", tmp_path / "again"
    command("import", source, run, "--reference", source / "answers.safetensors")
    assert "largest difference from the reference" in capsys.readouterr().out
    command("verify", run)
    command("export", run, out)
    command("import", out, again)
    before, after = arrays_of(run), arrays_of(again)
    assert before.keys() == after.keys() and all(np.array_equal(before[path], after[path]) for path in before)
    exported, original = (load_file(folder / "model.safetensors") for folder in (out, source))
    assert exported.keys() == original.keys()
    exact = [name for name in exported if not name.endswith("running_var")]
    assert all(np.array_equal(exported[name], original[name]) for name in exact)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (source, out)]
    backbones = [config.pop("backbone_config") for config in configs]
    assert {key: configs[1].get(key) for key in configs[0]} == configs[0]
    assert backbones[1].items() <= backbones[0].items()
    pixels = json.loads((out / "preprocessor_config.json").read_text())
    assert {key: pixels[key] for key in PIXELS} == PIXELS


@pytest.mark.parametrize("spelling", [as_timm, in_memory])
def test_other_spellings_are_the_same_arrays(spelling, source):
    expected = read_published(source)
    arrays = load_file(source / "model.safetensors")
    save_file({spelling(name): array for name, array in arrays.items()}, source / "model.safetensors")
    found = read_published(source)
    assert found.match.fits and found.arrays.keys() != expected.arrays.keys()
    ours = dict(read(expected.match, arrays))
    assert all(np.array_equal(array, ours[path]) for path, array in read(found.match, found.arrays))


def test_the_config_of_the_published_model(source):
    """facebook/detr-resnet-50 names its backbone as timm does."""
    config = json.loads((source / "config.json").read_text()) | {"backbone_config": None}
    family = read_published(source).family
    old = family.fields.ours(config | {"backbone": "resnet50", "use_timm_backbone": True, "dilation": False})
    sizes = {"depths": (3, 4, 6, 3), "bottleneck": True}
    assert old["backbone"] == {"name": "resnet", "num_classes": 0, **sizes, "frozen_norm": True}
    timm = {"model_type": "timm_backbone", "backbone": "resnet101", "out_indices": [1, 2, 3, 4], "output_stride": None}
    assert family.fields.ours(config | {"backbone_config": timm})["backbone"]["depths"] == (3, 4, 23, 3)


def test_commands_of_an_imported_detr(source, tmp_path, capsys):
    """Boxes of a file that has two of the four classes; training starts from the folder, and is exported."""
    run, boxes, tuned, out = tmp_path / "run", write_boxes(tmp_path / "boxes"), tmp_path / "tuned", tmp_path / "out"
    command("import", source, run)
    task = open_run(run).task
    assert task.class_names == ("N/A 0", "cell", "plate", "N/A 3")
    assert (task.size, task.short_side, task.max_boxes) == (48, 32, 6)
    item = f"{boxes}/images/test_1.png"
    (answer,) = research.runs.open(run).answer([item])
    assert len(answer["boxes"]) == 6 and {*answer["labels"]} <= {*task.class_names}
    predict.main(arguments_of(run, inputs=[item], format="text", pictures=None))
    overrides = {"data.path": f"{boxes}/instances_train.json", "data.test_path": f"{boxes}/instances_test.json"}
    more = {"samples": 0, "name": None, "heads": None, "alignments": None}
    evaluate.main(arguments_of(run, splits=["test"], overrides=overrides, **more))
    assert "test/ap50 " in capsys.readouterr().out
    whole = np.full((1, 48, 48, 3), 255, np.uint8)
    expected = (1 - np.array(PIXELS["image_mean"])) / PIXELS["image_std"]
    np.testing.assert_allclose(jax.device_get(task.normalised(whole))[0, 0, 0], expected, rtol=1e-5)

    model = json.loads((run / "config.json").read_text())["model"]
    backbone = {f"model.backbone.{name}": value for name, value in model.pop("backbone").items()}
    fields = {f"model.{name}": value for name, value in model.items() if name not in ("name", "num_classes")}
    fields |= backbone | {
        "data.classes": task.class_names,
        "task.max_boxes": 6,
        "training.duration": {"steps": 2},
        "optimizer.learning_rate": 1e-3,
    }
    results = train(f"configs/vision/bccd.py:folder={boxes},tiny", tuned, fields, str(source))
    assert np.isfinite(results["test/loss"])
    before, after = arrays_of(run), arrays_of(tuned)
    frozen = [path for path in before if path.startswith("batch_stats/backbone/")]
    assert frozen and all(np.array_equal(before[path], after[path]) for path in frozen)
    assert not np.array_equal(before["params/project/kernel"], after["params/project/kernel"])
    assert np.abs(before["params/head/kernel"] - after["params/head/kernel"]).max() < 0.01
    command("export", tuned, out)
    written = json.loads((out / "config.json").read_text())
    names = {str(number): name for number, name in enumerate(task.class_names)}
    assert written["id2label"] == names and written["architectures"] == ["DetrForObjectDetection"]
    command("import", out, tmp_path / "again")
    assert all(np.array_equal(after[path], array) for path, array in arrays_of(tmp_path / "again").items())


def preprocessing(folder, **values):
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS | values))


def backbone(folder, **values):
    stored = json.loads((folder / "config.json").read_text())["backbone_config"]
    changed(folder, backbone_config=stored | values)


LEARNED = r'position_embedding_type "learned": only models with "sine" are known'
WRONG = {
    "learned positions": (lambda f: changed(f, position_embedding_type="learned"), LEARNED),
    "dilation": (lambda f: changed(f, dilation=True), "dilation true: only models whose last level has a stride of 32"),
    "norms between layers": (lambda f: changed(f, auxiliary_loss=True), "auxiliary_loss true: only models with false"),
    "activation": (
        lambda f: changed(f, activation_function="gelu"),
        'activation_function "gelu": only models with "rel',
    ),
    "heads": (lambda f: changed(f, decoder_attention_heads=4), "another attention_heads in the decoder: only equal"),
    "queries": (lambda f: changed(f, num_queries=7), r"query_position_embeddings\.weight is \(6, 16\) and not \(7, 16"),
    "other classes": (lambda f: changed(f, id2label={"0": "a"}), r"classifier\.(weight|bias) is \(5.*\) and not \(2"),
    "another backbone": (lambda f: backbone(f, model_type="swin"), "the backbone swin: only ResNets are known here"),
    "timm's other backbone": (
        lambda f: changed(f, backbone_config={"model_type": "timm_backbone", "backbone": "resnet50d"}),
        "timm's backbone 'resnet50d': only resnet18, resnet34, resnet50, resnet101 are known",
    ),
    "no backbone": (
        lambda f: changed(f, backbone_config=None, use_timm_backbone=False, backbone="microsoft/resnet-50"),
        "the backbone microsoft/resnet-50: only ResNets are known here",
    ),
    "depths": (lambda f: backbone(f, depths="deep"), "a ResNet without numbers for depths and embedding_size"),
    "widths": (lambda f: backbone(f, hidden_sizes=[16, 32, 32]), r"hidden_sizes .*: only \[16, 32, 64\] are known"),
    "strides": (
        lambda f: backbone(f, downsample_in_bottleneck=True),
        "downsample_in_bottleneck true: only models with",
    ),
    "another level": (lambda f: backbone(f, out_indices=[2]), r"takes level \[2\] of its backbone: only the last one"),
    "no preprocessing": (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config.json, which"),
    "squares": (lambda f: preprocessing(f, size={"height": 8, "width": 8}), "only a shortest_edge with a longest_edge"),
    "no size": (lambda f: preprocessing(f, size={"shortest_edge": 0, "longest_edge": 8}), "has no size in pixels"),
    "no resizing": (lambda f: preprocessing(f, do_resize=False), "do_resize or do_rescale off"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_detr_is_one_sentence(name, source, tmp_path):
    spoil, sentence = WRONG[name]
    spoil(source)
    with pytest.raises(UserError, match=sentence) as error:
        command("import", source, tmp_path / "run")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert {path.name for path in tmp_path.iterdir()} == {"detr"}


@pytest.mark.parametrize(("size", "long", "short"), [({"size": 32, "max_size": 48}, 48, 32), ({"size": 32}, 1333, 32)])
def test_sizes_of_older_files(size, long, short, source):
    (source / "preprocessor_config.json").write_text(json.dumps(size))
    fields = boxed_of(source)
    assert (fields["size"], fields["short_side"]) == (long, short) and fields["mean"] == (0.485, 0.456, 0.406)
