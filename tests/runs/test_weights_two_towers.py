"""A published CLIP and a published SigLIP as runs of image_text, beside the reference library's answers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

import research.runs
from experiments import evaluate, predict
from experiments.train import train
from research.errors import UserError
from research.models.bert import BERT
from research.models.gpt import GPT
from research.models.two_towers import TwoTowers
from research.models.vit import ViT
from research.runs.experiment import open_run, trained
from research.runs.exported import _differing
from research.weights.families import FAMILIES
from tests.captions import write_captions
from tests.runs.test_weights import CONFIG, arguments_of, arrays_of, changed, command
from tests.runs.test_weights_texts import GOLDEN, published, same_weights  # noqa: F401

NAMES = ("clip", "siglip")


def test_pixels_as_transformers_5_describes_them(published, tmp_path):  # noqa: F811
    source, _ = published("clip")
    pixels = json.loads((source / "preprocessor_config.json").read_text())
    (source / "preprocessor_config.json").unlink()
    (source / "processor_config.json").write_text(json.dumps({"image_processor": pixels}))
    command("import", source, tmp_path / "run")
    task = open_run(tmp_path / "run").task
    assert task.mean == tuple(pixels["image_mean"]) and task.photo.size == 16 and task.photo.crop_fraction == 1
    assert task.photo.interpolation == "bicubic"
    (source / "processor_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"processor_config\.json has no image_processor: fetch preprocessor_config"):
        command("import", source, tmp_path / "other")


@pytest.mark.parametrize("name", NAMES)
def test_an_image_and_texts_are_as_near_as_the_reference_says(name, published, tmp_path):  # noqa: F811
    """From an image's file and texts; what is exported is what was imported, and is the same when it is imported."""
    source, expected = published(name)
    run, out = tmp_path / "run", tmp_path / "out"
    command("import", source, run)
    command("verify", run)
    task, variables = open_run(run).task, trained(run)[1]
    assert task.length == 48 and task.objective == name and not task.photo.flip
    examples = [{**task.example(str(source / "photo.png")), "caption": text} for text in expected["texts"]]
    batch = jax.tree.map(jnp.asarray, task.rows(examples, train=False, seed=0).first(3))
    logits = open_run(run).model.apply(variables, *task.model_inputs(batch))
    np.testing.assert_allclose(logits, np.tile(expected["logits"], (3, 1)), atol=1e-4)
    (answer,) = research.runs.open(run).answer([str(source / "photo.png")], classes=expected["texts"])
    chances = np.exp(expected["logits"]) / np.exp(expected["logits"]).sum()
    chances = chances if name == "clip" else 1 / (1 + np.exp(-np.array(expected["logits"])))
    assert answer["label"] == expected["texts"][chances.argmax()]
    assert answer["probability"] == pytest.approx(chances.max(), rel=1e-4)
    command("export", run, out)
    assert same_weights(run, source, out)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (source, out)]
    for config in configs:
        for key in ("bos", "eos", "pad"):
            config["text_config"].pop(f"{key}_token_id")
    assert {key: configs[1].get(key) for key in configs[0]} == configs[0]
    pixels = [json.loads((folder / "preprocessor_config.json").read_text()) for folder in (source, out)]
    same = ("size", "resample", "image_mean", "image_std", "do_center_crop", "crop_size", "rescale_factor")
    assert {key: pixels[0].get(key) or None for key in same} == {key: pixels[1].get(key) or None for key in same}
    own = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    assert [own.encode(text).ids for text in expected["texts"]] == expected["ids"]
    command("import", out, tmp_path / "again")
    before, after = arrays_of(run), arrays_of(tmp_path / "again")
    assert before.keys() == after.keys() and all(np.array_equal(before[path], after[path]) for path in before)


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_is_compared(name, published, tmp_path, capsys):  # noqa: F811
    """With a mask or without one; the older form of a CLIP's config, and names that are left out, too."""
    source, expected = published(name)
    stored = load_file(source / "model.safetensors")
    save_file(stored | {"text_model.embeddings.position_ids": np.arange(48)[None]}, source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    if name == "clip":
        changed(source, text_config={"hidden_act": "relu"}, text_config_dict=config["text_config"])
    command("import", source, tmp_path / "first")
    task = open_run(tmp_path / "first").task
    pixels = task.normalised(task.questions([task.example(str(source / "photo.png"))]).first()["image"])
    ids = np.full((3, 48), task.vocabulary.eos)
    for row, own in zip(ids, expected["ids"], strict=True):
        row[: len(own)] = own
    arrays = {"input_ids": ids, "pixel_values": np.ascontiguousarray(np.moveaxis(pixels, -1, 1))}
    for name, logits in (("right", expected["logits"]), ("wrong", [0.0, 0.0, 0.0])):
        save_file(arrays | {"logits_per_image": np.array([logits], np.float32)}, tmp_path / f"{name}.safetensors")
    capsys.readouterr()
    command("import", source, tmp_path / "run", "--reference", tmp_path / "right.safetensors")
    said = capsys.readouterr().out
    assert "largest difference from the reference" in said and "position_ids (counts from 0)" in said
    with pytest.raises(UserError, match=r"differ from .*: the conversion is wrong"):
        command("import", source, tmp_path / "other", "--reference", tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_commands_of_an_imported_model_and_two_steps_of_training(name, published, tmp_path, capsys):  # noqa: F811
    source, _ = published(name)
    run, tuned, out = tmp_path / "run", tmp_path / "tuned", tmp_path / "out"
    command("import", source, run)
    folder = write_captions(tmp_path / "captions")
    predict.main(arguments_of(run, inputs=[f"{folder}/images/0.jpg"], format="text", pictures=None))
    overrides = {"data.path": f"{folder}/captions_train.tsv", "data.images": f"{folder}/images"}
    evaluate.main(arguments_of(run, splits=["train"], samples=1, overrides=overrides, name=None, heads=None,
                               alignments=None))  # fmt: skip
    assert "train/image_to_text_recall_1" in capsys.readouterr().out
    config = json.loads((run / "config.json").read_text())
    config["task"]["tokenizer"] = {"path": str(run / "tokenizer.json")}
    config["data"] = {"name": "captions", **{key.removeprefix("data."): value for key, value in overrides.items()}}
    config["data"]["validation_path"] = f"{folder}/captions_val.tsv"
    config["training"] = {"batch_size": 4, "duration": {"steps": 2}}
    (tmp_path / "config.py").write_text(CONFIG.format(config=config))
    results = train(str(tmp_path / "config.py"), tuned, {}, str(run))
    assert np.isfinite(results["validation/loss"])
    before, after = arrays_of(run), arrays_of(tuned)
    changes = {path: np.abs(after[path] - before[path]).max() for path in before}
    assert before.keys() == after.keys() and 0 < changes["params/text/decoder/layer_0/feed_forward/up/kernel"] < 1e-2
    command("export", tuned, out)
    names = ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    written, stored = (load_file(folder / "model.safetensors") for folder in (out, source))
    assert written.keys() == stored.keys() and all(written[key].shape == stored[key].shape for key in stored)
    described = json.loads((out / "tokenizer_config.json").read_text())
    kind = {"clip": "CLIPTokenizer", "siglip": "PreTrainedTokenizerFast"}[name]
    assert described["tokenizer_class"] == kind and described["model_max_length"] == 48
    # A SigLIP reads padding: with a mask transformers would answer something else.
    assert described["model_input_names"] == ["input_ids", *["attention_mask"] * (name == "clip")]
    if name == "clip":  # the first published models say another end
        assert json.loads((out / "config.json").read_text())["text_config"]["eos_token_id"] == 543


def part(folder, which, **values):
    stored = json.loads((folder / "config.json").read_text())
    changed(folder, **{f"{which}_config": stored[f"{which}_config"] | values})


def array(folder, name, shape):
    stored = load_file(folder / "model.safetensors")
    save_file(stored | {name: np.ones(shape, np.float32)}, folder / "model.safetensors")


def fewer_tokens(folder):
    stored = json.loads((folder / "vocab.json").read_text())
    last = max(stored.values())
    kept = {token: number for token, number in stored.items() if number < last - 2}
    (folder / "vocab.json").write_text(json.dumps(kept | {"<|startoftext|>": last - 2, "<|endoftext|>": last - 1}))
    lines = (folder / "merges.txt").read_text().splitlines()
    (folder / "merges.txt").write_text("\n".join(lines[:-1]))


def rules(folder, **values):
    stored = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(stored | values))


def unigram(folder, **values):
    stored = json.loads((folder / "tokenizer.json").read_text())
    rules(folder, model=stored["model"] | values)


WRONG = {
    "clip": {
        "activation": (
            lambda f: part(f, "text", hidden_act="mish"),
            'hidden_act "mish": only quick_gelu, gelu',
        ),
        "dropout": (lambda f: part(f, "vision", attention_dropout=0.1), "attention_dropout 0.1: only models with 0.0"),
        "two widths": (
            lambda f: array(f, "visual_projection.weight", (12, 16)),
            r"visual_projection\.weight is \(12",
        ),
        "no part": (lambda f: changed(f, text_config=[1]), r"config\.json has text_config \[1\]: restore it"),
        "fewer tokens": (fewer_tokens, "has 543 tokens and the model's table 544 rows: give the tokenizer"),
        "another end": (lambda f: part(f, "text", eos_token_id=7), "texts that end with token 7 and the tokenizer 543"),
        "no tokenizer": (lambda f: (f / "vocab.json").unlink(), "has neither tokenizer.json nor vocab.txt nor vocab"),
        "no preprocessing": (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
        "oblong": (lambda f: part(f, "vision", image_size=[16, 8]), r"has images of \[16, 8\] pixels"),
        "positions": (
            lambda f: part(f, "vision", image_size=24),
            r"position_embedding\.weight is \(5, 16\) and",
        ),
        "odd heads": (lambda f: part(f, "vision", num_attention_heads=3), "width 16 is not divisible by num_heads 3"),
    },
    "siglip": {
        "activation": (lambda f: part(f, "vision", hidden_act=7), "hidden_act 7: only gelu_pytorch_tanh, gelu, .* are"),
        "no head": (lambda f: part(f, "vision", vision_use_head=False), "vision_use_head false: only models with true"),
        "two widths": (
            lambda f: part(f, "text", projection_size=20),
            "texts of projection_size 20 and images of hidden_size 16: give a model whose two vectors have one width",
        ),
        "width of no kind": (lambda f: part(f, "text", projection_size="16"), "of projection_size 16 and images"),
        "no part": (lambda f: changed(f, vision_config="x"), "has vision_config"),
        "more tokens": (lambda f: array(f, "logit_bias", (2,)), r"logit_bias is \(2,\) and not \(1,\)"),
        "another rule": (lambda f: rules(f, normalizer={"type": "Lowercase"}), "is a tokenizer of another make"),
        "another mark": (
            lambda f: rules(f, decoder={"type": "Metaspace", "replacement": "_"}),
            "is a tokenizer of another make",
        ),
        "an unknown": (lambda f: unigram(f, unk_id=0), "is a tokenizer of another make"),
        "a larger table": (
            lambda f: part(f, "text", vocab_size=99),
            r"token_embedding\.weight is \(48, 12\) and",
        ),
    },
}


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name in NAMES for wrong in WRONG[name]])
def test_what_is_wrong_with_a_folder_is_one_sentence(name, wrong, published, tmp_path):  # noqa: F811
    source, _ = published(name)
    spoil, sentence = WRONG[name][wrong]
    spoil(source)
    with pytest.raises(UserError, match=sentence) as error:
        command("import", source, tmp_path / "run")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_a_run_whose_texts_end_otherwise(tmp_path):
    """Our own vocabulary ends texts with 2, which transformers' CLIP takes for something else."""
    overrides = {"training.duration": {"steps": 1}, "model.image.pool": "cls", "model.image.input_norm": True}
    train("configs/multimodal/clip_scenes.py:tiny", tmp_path / "run", overrides | {"model.image.norm_epsilon": 1e-5})
    with pytest.raises(UserError, match="takes the highest token for a text's end where that is 2: export"):
        command("export", tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


IMAGE = ViT(0, patch_size=8, width=16, num_layers=1, num_heads=2, mlp_width=16, input_norm=True, norm_epsilon=1e-5)
TEXT = GPT(9, 1, 8, 2)


@pytest.mark.parametrize(("model", "words"), [
    (TwoTowers(IMAGE, TEXT), {}),
    (TwoTowers(IMAGE.clone(scan=True), TEXT, scale=3.0, limit=None), {}),
    (TwoTowers(IMAGE.clone(pool="mean"), TEXT), {"model.image.pool": "cls"}),
    (TwoTowers(IMAGE, TEXT.clone(causal=False)), {"model.text.causal": True}),
    (TwoTowers(IMAGE, TEXT, bias=-10.0), {"model.bias": None}),
    (TwoTowers(IMAGE, TEXT.clone(activation="swiglu")), "no model.activation 'swiglu' here: train with one of"),
    (TwoTowers(IMAGE, BERT(9, 1, 8, 2)), "no such model with bert as model.text: export one with gpt"),
])  # fmt: skip
def test_models_that_are_no_clip(model, words):
    family = next(one for one in FAMILIES if one.name == "clip")
    try:
        found = _differing(model, family, family.fields.theirs(vars(model)), family.architectures["CLIPModel"][0])
    except UserError as error:
        found = str(error)
    assert found == words if isinstance(words, dict) else words in found


def test_a_scale_is_written_as_it_is_held():
    """Beyond the limit of training the model answers with the limit, which transformers does not know."""
    for name, limit, expected in (("clip", 100.0, np.log(100)), ("clip", None, 4.8), ("siglip", None, 4.8)):
        (table,) = next(one for one in FAMILIES if one.name == name).tables(TwoTowers(IMAGE, TEXT, limit=limit))
        (line,) = (one for one in table.lines if one.ours == ("log_scale",))
        (written,) = line.layout.theirs([np.float32(4.8)])
        assert written.shape == (() if name == "clip" else (1,)) and written.dtype == np.float32
        assert written == pytest.approx(expected, rel=1e-6)
