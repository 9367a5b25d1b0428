"""Published models in and out of run folders, by the commands that a person types."""

import argparse
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from PIL import Image
from safetensors.numpy import load_file, save_file

import research.runs
from experiments import evaluate, pictures, predict, report, weights
from experiments.train import train
from research.data.tokenizer import TrainedTokenizer
from research.errors import UserError
from research.parallel.sharding import by_path
from research.runs.experiment import open_run, trained
from research.weights.match import read
from research.weights.published import read_published

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
GOLDEN = FIXTURES / "transformers"
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    ".",
    "'",
    *(f"##{x}" for x in "aeiounr"),
]


def command(*arguments):
    weights.main(weights._parser().parse_args([str(argument) for argument in arguments]))


def arguments_of(run, **more):
    """What a person types after a command on a run."""
    return argparse.Namespace(workdir=str(run), checkpoint=None, options={}, **more)


@pytest.fixture
def published(tmp_path):
    """`published("bert")`: a copy of a golden model, with a vocabulary where it reads text."""

    def copy(name):
        folder = tmp_path / name
        shutil.copytree(GOLDEN / name, folder)
        if name.startswith("bert"):
            (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        return folder

    return copy


@pytest.fixture
def timm_vit(tmp_path):
    """A ViT of a size that has a name in timm would be large: the fields of the smallest one are made small."""
    golden = load_file(FIXTURES / "golden" / "vit.safetensors")
    folder = tmp_path / "timm"
    folder.mkdir()
    arrays = {name.removeprefix("weights/"): array for name, array in golden.items() if name.startswith("weights/")}
    save_file(arrays, folder / "model.safetensors")
    config = {"architecture": "vit_tiny_patch8_32", "num_classes": 10}
    config["pretrained_cfg"] = {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3, "crop_pct": 0.9}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def arrays_of(run):
    _, variables, _ = trained(run)
    return by_path(jax.device_get(variables))


@pytest.mark.parametrize("name", ["bert", "vit", "deit", "swin"])
def test_a_published_model_becomes_a_run_and_the_same_again(name, published, tmp_path, capsys):
    """Bit for bit, and each command of a run takes it."""
    source, run, out, again = published(name), tmp_path / "run", tmp_path / "out", tmp_path / "again"
    command("import", source, run, "--reference", source / "answers.safetensors")
    assert "largest difference from the reference" in capsys.readouterr().out
    command("verify", run)
    assert "bit for bit" in capsys.readouterr().out
    command("export", run, out)
    command("import", out, again)
    before, after = arrays_of(run), arrays_of(again)
    assert before.keys() == after.keys() and all(np.array_equal(before[path], after[path]) for path in before)
    exported, original = (load_file(folder / "model.safetensors") for folder in (out, source))
    assert exported.keys() == original.keys() and all(np.array_equal(exported[x], original[x]) for x in exported)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (source, out)]
    assert {key: configs[1].get(key) for key in configs[0]} == configs[0]
    capsys.readouterr()
    command("diff", source)
    command("diff", source, run)
    assert capsys.readouterr().out.count(" 0 differ") == 2


def test_commands_of_an_imported_image_model(published, tmp_path, capsys):
    source, run = published("vit"), tmp_path / "run"
    command("import", source, run)
    photos = tmp_path / "photos"
    for label in range(5):
        (photos / f"LABEL_{label}").mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(photos / f"LABEL_{label}" / f"{number}.png")
    item = str(photos / "LABEL_1" / "0.png")
    (answer,) = research.runs.open(run).answer([item])
    assert answer["label"].startswith("LABEL_")
    predict.main(arguments_of(run, inputs=[item], format="text", pictures=None))
    evaluate.main(
        arguments_of(
            run,
            splits=["train"],
            samples=1,
            overrides={"data.path": str(photos)},
            name=None,
            heads=None,
            alignments=None,
        )
    )
    assert "train/accuracy" in capsys.readouterr().out
    pictures.main(arguments_of(run, item=item, data=False))
    assert (run / "attention").exists()
    report.main(argparse.Namespace(runs=[str(run)], samples=False, output=None))


@pytest.mark.parametrize("from_folder", [False, True])
def test_a_fine_tune_from_imported_weights(from_folder, published, tmp_path, capsys):
    """From the run, whose vocabulary is compared, and from the published folder itself."""
    source, run = published("bert"), tmp_path / "run"
    command("import", source, run)
    model = json.loads((run / "config.json").read_text())["model"]
    overrides = {f"model.{name}": value for name, value in model.items() if name != "name"}
    overrides |= {"task.tokenizer": {"path": str(run / "tokenizer.json")}, "task.length": 10}
    overrides |= {"training.duration": {"steps": 2}, "optimizer.learning_rate": 0.0}
    tuned = tmp_path / "tuned"
    results = train("configs/language/sentences.py:tiny", tuned, overrides, str(source if from_folder else run))
    assert np.isfinite(results["test/loss"])
    before, after = arrays_of(run), arrays_of(tuned)
    assert all(np.array_equal(before[path], after[path]) for path in before)
    command("export", tuned, tmp_path / "out")
    assert {"tokenizer.json", "vocab.txt", "modules.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


CONFIG = """
from ml_collections import ConfigDict

def get_config(arg=""):
    return ConfigDict({config!r})
"""


@pytest.mark.parametrize("name", ["vit", "deit", "swin", "dinov2"])
def test_a_fine_tune_of_images_from_imported_weights(name, published, tmp_path):
    """The body is the published one, the head is new, of other classes. dinov2 has none: its folder is started from."""
    source, run, tuned = published(name), tmp_path / "run", tmp_path / "tuned"
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    if name != "dinov2":
        command("import", source, run)
    model = dict(read_published(source).section)
    config = {
        "model": {key: value for key, value in model.items() if key != "num_classes"},
        "task": {"name": "classification", "photo": {"size": 32 if name == "swin" else 16}},
        "data": {"name": "image_folder", "path": str(tmp_path / "photos"), "validation_fraction": 0.25},
        "optimizer": {"name": "sgd", "learning_rate": 1.0, "multipliers": {"^(?!head)": 0.0}},
        "training": {"batch_size": 2, "duration": {"steps": 2}},
        "transfer": {"source": "", "new": ["^head"]},
    }
    (tmp_path / "config.py").write_text(CONFIG.format(config=config))
    results = train(str(tmp_path / "config.py"), tuned, {}, str(source if name == "dinov2" else run))
    assert np.isfinite(results["validation/loss"])
    after, expected = arrays_of(tuned), dict(read((found := read_published(source)).match, found.arrays))
    body = [path for path in expected if not path.startswith("head")]
    assert all(np.array_equal(after[f"params/{path}"], expected[path]) for path in body)
    assert np.abs(after["params/head/kernel"]).max() > 0


def test_verify_notices_what_changed(published, tmp_path):
    source, run = published("vit"), tmp_path / "run"
    command("import", source, run)
    moved = source.rename(tmp_path / "moved")
    command("verify", run, moved)
    with pytest.raises(UserError, match=r"no model\.safetensors|cannot be read"):
        command("verify", run)
    arrays = load_file(moved / "model.safetensors")
    arrays["vit.layernorm.bias"] += 1
    save_file(arrays, moved / "model.safetensors")
    with pytest.raises(UserError, match=r"is not what .* was imported from: its sha256 differ"):
        command("verify", run, moved)
    stored = load_file(run / "certificate.safetensors")
    save_file(stored | {"answers": stored["answers"] + 1}, run / "certificate.safetensors")
    with pytest.raises(UserError, match="answers otherwise than when it was imported, by 1"):
        command("verify", run, moved)


def test_a_wrong_reference_is_noticed(published, tmp_path):
    source = published("vit")
    answers = load_file(source / "answers.safetensors")
    save_file(answers | {"logits": answers["logits"] + 0.01}, tmp_path / "reference.safetensors")
    with pytest.raises(UserError, match=r"differ from .* by 0\.01.*: the conversion is wrong"):
        command("import", source, tmp_path / "run", "--reference", tmp_path / "reference.safetensors")


def changed(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rewritten(folder, change):
    arrays = load_file(folder / "model.safetensors")
    save_file(change(arrays), folder / "model.safetensors")


def sharded(folder, name="model-2.safetensors", lost=False):
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(arrays)
    parts = {"model-1.safetensors": names[:9], name: names[9:]}
    for part, own in parts.items():
        if part == "model-1.safetensors" or not lost:
            save_file({one: arrays[one] for one in own}, folder / Path(part).name)
    index = {"weight_map": {one: part for part, own in parts.items() for one in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


WRONG = {
    "truncated": (truncated, r"model\.safetensors cannot be read \("),
    "without config": (lambda f: (f / "config.json").unlink(), "has no config.json, which says what model it is"),
    "without weights": (lambda f: (f / "model.safetensors").unlink(), r"has no model\.safetensors: give the folder"),
    "pickled": (pickled, r"pytorch_model\.bin would have to be unpickled.*safetensors\.torch\.save_file"),
    "unknown model": (lambda f: changed(f, architectures=["LlamaForCausalLM"]), "LlamaForCausalLM is not .*BertModel"),
    "config of no model": (lambda f: changed(f, architectures=7, model_type=[]), "is not a model that is known here"),
    "unknown activation": (lambda f: changed(f, hidden_act="mish"), 'hidden_act "mish"'),
    "unknown positions": (
        lambda f: changed(f, position_embedding_type="relative_key"),
        'position_embedding_type "relative_key": only models with "absolute"',
    ),
    "wrong width": (lambda f: changed(f, hidden_size=32), r"shapes differ \(.*\(40, 16\) and not \(40, 32\)"),
    "enormous width": (lambda f: changed(f, hidden_size=2**20), "the model has [0-9,]+ parameters and the weights"),
    "width beyond a range": (lambda f: changed(f, hidden_size=2**40), r"config\.json\.width is 1099511627776"),
    "width of another type": (lambda f: changed(f, hidden_size="wide"), r"config\.json\.width"),
    "too many layers": (lambda f: changed(f, num_hidden_layers=3), r"lacks encoder\.layer\.2\."),
    "too few layers": (lambda f: changed(f, num_hidden_layers=1), r"encoder\.layer\.1\..* which the model lacks"),
    "other weights": (lambda f: rewritten(f, lambda a: {"x": np.ones((99, 99), np.float32)}), "lacks embeddings"),
    "a shard is missing": (lambda f: sharded(f, lost=True), r"lacks model-2\.safetensors, which its index names"),
    "a shard elsewhere": (lambda f: sharded(f, "../model-2.safetensors"), r"is not a \.safetensors file of its folder"),
    "index without names": (
        lambda f: (sharded(f), (f / "model.safetensors.index.json").write_text('{"weight_map": [1]}')),
        "does not say which file holds which array",
    ),
    "not finite": (
        lambda f: rewritten(f, lambda a: {name: array * np.float32(np.nan) for name, array in a.items()}),
        "the weights hold NaN or infinity in 'embeddings.word_embeddings.weight'",
    ),
    "a name twice": (
        lambda f: rewritten(f, lambda a: a | {"bert.pooler.dense.bias": a["pooler.dense.bias"]}),
        "twice, the second time as",
    ),
    "two different tables": (
        lambda f: (changed(f, architectures=["BertForMaskedLM"]), masked(f)),
        r"hold cls\.predictions\.decoder\.weight unlike bert\.embeddings\.word_embeddings\.weight",
    ),
    "another vocabulary": (
        lambda f: (f / "vocab.txt").write_text("\n".join(WORDS[:20])),
        "has 20 tokens and the model's",
    ),
    "no vocabulary": (lambda f: (f / "vocab.txt").unlink(), "has neither tokenizer.json nor vocab.txt nor vocab.json"),
}  # fmt: skip


def masked(folder):
    source = load_file(GOLDEN / "bert_masked" / "model.safetensors")
    save_file(source | {"cls.predictions.decoder.weight": np.ones((40, 16), np.float32)}, folder / "model.safetensors")


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_folder_is_one_sentence(name, published, tmp_path):
    source = published("bert")
    spoil, sentence = WRONG[name]
    spoil(source)
    with pytest.raises(UserError, match=sentence) as error:
        command("import", source, tmp_path / "run")
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    assert {path.name for path in tmp_path.iterdir()} == {"bert"}


def test_shards_are_one_model(published, tmp_path):
    source = published("bert")
    command("import", source, tmp_path / "whole")
    sharded(source)
    command("import", source, tmp_path / "run")
    command("verify", tmp_path / "run")
    found, expected = (trained(tmp_path / name)[1] for name in ("run", "whole"))
    assert jax.tree.all(jax.tree.map(np.array_equal, found, expected))


def test_diff_lists_everything(published, capsys):
    source = published("bert")
    changed(source, num_hidden_layers=1, vocab_size=41)
    command("diff", source)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("unexpected") for line in lines) == 16
    assert any(line.startswith("misshapen") and "(40, 16)" in line and "(41, 16) there" in line for line in lines)
    assert lines[-1].endswith("0 left out, 17 differ")


@pytest.mark.parametrize("name", ["vit_features"])
def test_a_model_without_answers_is_started_from(name, published, tmp_path):
    with pytest.raises(UserError, match=r"has no head, or .* start a training from it, with train --from=.*"):
        command("import", published(name), tmp_path / "run")


def test_folders_that_hold_something_are_not_touched(published, tmp_path):
    source = published("vit")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    for arguments in (("import", source, tmp_path / "run"), ("export", tmp_path / "x", tmp_path / "run")):
        with pytest.raises(UserError, match="run is not empty: give a new folder"):
            command(*arguments)


def test_gpt2_with_its_tokenizer(tmp_path, capsys):
    """A byte-level tokenizer as GPT-2's is made, here by the library itself; its tokens are the library's own."""
    own = tokenizers.Tokenizer(tokenizers.models.BPE())
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    own.train_from_iterator(["To be, or not to be, that's the question: 42 times.\n\n  Indented."] * 9, trainer)
    source, run = tmp_path / "gpt2", tmp_path / "run"
    source.mkdir()
    own.save(str(source / "tokenizer.json"))
    config = json.loads((GOLDEN / "gpt2" / "config.json").read_text()) | {"vocab_size": own.get_vocab_size()}
    (source / "config.json").write_text(json.dumps(config))
    arrays = load_file(GOLDEN / "gpt2" / "model.safetensors")
    random = np.random.default_rng(0)
    table = random.normal(size=(own.get_vocab_size(), 16)).astype(np.float32)
    save_file(arrays | {"transformer.wte.weight": table}, source / "model.safetensors")
    command("import", source, run)
    text = "To be's 42  times?\n\n\n  né"
    assert open_run(run).task.vocabulary.encode(text) == own.encode(text).ids
    (answer,) = research.runs.open(run).answer(["To be"])
    assert answer["text"].startswith("To be")
    command("verify", run)
    command("export", run, tmp_path / "out")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert again.encode(f"{text}<|endoftext|>").ids == own.encode(f"{text}<|endoftext|>").ids
    tuned = tmp_path / "tuned"
    (tmp_path / "text.txt").write_text("To be, or not to be.\n" * 60)
    overrides = {"data.path": str(tmp_path / "text.txt"), "training.duration": {"steps": 2}, "task.length": 12}
    overrides |= {"task.tokenizer": {"path": str(run / "tokenizer.json")}, "model.max_length": 12, "model.width": 16}
    overrides |= {"model.num_layers": 2, "model.num_heads": 2, "model.use_bias": True, "model.activation": "gelu_tanh"}
    assert np.isfinite(train("configs/language/shakespeare.py:tiny", tuned, overrides, str(run))["validation/loss"])


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"added_tokens": [{"id": 5, "content": "injected"}]},
        {"normalizer": {"type": "Lowercase"}},
    ],
)
def test_other_byte_level_tokenizers_are_refused(change, tmp_path):
    vocabulary = {letter: number for number, letter in enumerate(tokenizers.pre_tokenizers.ByteLevel.alphabet())}
    pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    stored = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "pre_tokenizer": pre, "added_tokens": []}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(stored))
    assert TrainedTokenizer.load(path).vocab_size == 256
    path.write_text(json.dumps(stored | change))
    with pytest.raises(UserError, match="is a tokenizer of another make"):
        TrainedTokenizer.load(path)
