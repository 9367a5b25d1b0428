"""Every config is launched as `:tiny`: trained to the end, evaluated."""

import gzip
import io
import itertools
import json
import math
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from research.config import choose, load
from research.models.gpt import SIZES
from research.runs.experiment import build_experiment
from research.runs.tables import MODELS, SOURCES
from tests.boxes import write_boxes
from tests.captions import write_captions
from tests.image_masks import write_masks

ROOT = Path(__file__).resolve().parents[2]
COMPARISON = "configs/vision/compare.py"  # for experiments.benchmark, not for training
CONFIGS = sorted({str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.py")} - {COMPARISON})
LINES = {
    "en": [f"a man with {n} dogs sits in the small green ho@@ use ." for n in range(40)],
    "de": [f"ein mann mit {n} hunden sitzt im kleinen grünen ha@@ us ." for n in range(40)],
}
WMT14 = """
import sys
import tensorflow_datasets as tfds
class Wmt14Translate(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="de-en")]
    def _info(self):
        features = tfds.features.Translation(languages=("de", "en"))
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("de", "en"))
    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in ("train", "validation", "test")}
    def _generate_examples(self):
        for n in range(60):
            yield n, {"de": f"Guten Morgen, {n} schöne Hunde!", "en": f"Good morning, {n} fine dogs!"}
Wmt14Translate(config="de-en", data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
class Glue(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="mrpc")]
    def _info(self):
        label = tfds.features.ClassLabel(names=["not_equivalent", "equivalent"])
        texts = {name: tfds.features.Text() for name in ("sentence1", "sentence2")}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({**texts, "label": label}))
    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in ("train", "validation")}
    def _generate_examples(self):
        for n in range(1200):
            yield n, {"sentence1": f"{n} fine dogs", "sentence2": f"{n + n % 2} dogs", "label": 1 - n % 2}
Glue(config="mrpc", data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
class Lm1b(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.1.0")
    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)
    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in ("train", "test")}
    def _generate_examples(self):
        for n in range(1200):
            yield n, {"text": f"The {n} dogs of number {n % 7} sing in the garden, and nobody sees them ."}
Lm1b(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""
CONTEXTS = [f"The {place} of the dog number {n} is big." for n in range(20) for place in ("house", "garden", "bed")]
QUESTIONS = [
    {"context": context, "qas": [{"id": f"{number}", "question": f"What of {number} is big?", "answers": [
        {"text": context.split()[1], "answer_start": 4}]}]}
    for number, context in enumerate(CONTEXTS * 12)
]  # fmt: skip


def write_data(folder: Path) -> None:
    """Small stand-ins for the files that configs read."""
    (folder / "text.txt").write_text("To be, or not to be, that is the question:\n" * 40)
    for split in ("train", "valid", "test.2016"):
        for language, lines in LINES.items():
            (folder / f"{split}.{language}.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    for split in ("train", "validation", "test"):
        (folder / f"{split}.el").write_text("".join(f"ὁ κύων {n} ᾄδει\n" for n in range(3000)))
        (folder / f"{split}.en").write_text("".join(f"The dog {n} sings .\n" for n in range(3000)))
    messages = "".join(f"{'spam' if n % 4 else 'ham'}\tcall {n} times\n" for n in range(2000))
    (folder / "sms.tsv").write_text(messages)
    documents = [f"{n} dogs sing in the {place}.\n" * 9 for n in range(60) for place in ("house", "garden")]
    (folder / "documents.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    (folder / "texts.csv").write_text("label,text\n" + messages.replace("\t", ","))
    for split in ("dev", "test"):
        sentence = "1\tdogs\t_\tNOUN\n2\tsing\t_\tVERB\n\n"
        (folder / f"en_ewt-ud-{split}.conllu").write_text(sentence * 1000)
    for split in ("train", "dev"):
        articles = {"data": [{"title": "dogs", "paragraphs": QUESTIONS}]}
        (folder / f"{split}-v1.1.json").write_text(json.dumps(articles))
    write_masks(folder / "masks")
    write_captions(folder / "captions")
    boxes = Path(write_boxes(folder / "boxes"))
    (boxes / "annotations").mkdir()
    for split in ("train", "val"):  # as COCO has them
        shutil.copyfile(boxes / f"instances_{split}.json", boxes / "annotations" / f"instances_{split}2017.json")
        shutil.copytree(boxes / "images", boxes / f"{split}2017")
    random = np.random.default_rng(0)
    for split, count in (("train", 150), ("test", 4)):
        with zipfile.ZipFile(folder / f"cifar10_{split}.zip", "w") as archive:
            for label, number in itertools.product(range(10), range(count)):
                file = io.BytesIO()
                Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG")
                archive.writestr(f"{split}/class_{label}/{number}.png", file.getvalue())
    subprocess.run([sys.executable, "-c", WMT14, str(folder / "tfds")], check=True, capture_output=True)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


def spec_and_overrides(config: str, data: Path) -> tuple[str, dict[str, str]]:
    """The config with its data: a spec that may take more arguments, and overrides."""
    if config in (
        "configs/translation/bible.py",
        "configs/translation/multi30k.py",
        "configs/theory/attention_ablation.py",
        "configs/vision/cifar10.py",
        "configs/language/ud_ewt.py",
        "configs/language/squad.py",
    ):
        return f"{config}:folder={data},", {}
    if config in ("configs/vision/bccd.py", "configs/vision/detr_coco.py"):
        return f"{config}:folder={data / 'boxes'},", {}
    if config == "configs/vision/membrane.py":
        return f"{config}:folder={data / 'masks'},", {}
    if config == "configs/multimodal/clip_coco.py":
        return f"{config}:folder={data / 'captions'},", {}
    if config == "configs/language/gpt2.py":
        return f"{config}:folder={data / 'documents.jsonl'},", {}
    if config in ("configs/translation/wmt14.py", "configs/language/glue.py", "configs/language/lm1b.py"):
        return f"{config}:data_dir={data / 'tfds'},", {}
    if config in ("configs/language/sms_spam.py", "configs/language/fine_tune.py", "configs/language/distill.py"):
        return f"{config}:file={data / ('texts.csv' if 'fine_tune' in config else 'sms.tsv')},", {}
    archives = {"data.path": f"{data}/cifar10_train.zip", "data.validation_path": f"{data}/cifar10_test.zip"}
    paths = {
        "configs/language/shakespeare.py": {"data.path": f"{data}/text.txt"},
        "configs/vision/imagenet.py": archives,
        "configs/theory/listops.py": {"data.size": "1000"},
    }
    return f"{config}:", paths.get(config, {})


@pytest.mark.parametrize("config", CONFIGS)
def test_tiny_trains_to_the_end_and_says_so(config, data, tmp_path, run):
    spec, overrides = spec_and_overrides(config, data)
    arguments = [f"--config={spec}tiny", f"--workdir={tmp_path / 'run'}"]
    arguments += [f"--config.{path}={value}" for path, value in overrides.items()]
    code, stdout, stderr = run("train", *arguments)
    assert code == 0, stderr
    folder = tmp_path / "run"
    results = json.loads((folder / "results.json").read_text())
    assert results and all(math.isfinite(value) for value in results.values())
    assert all(name.split("/")[0] in ("validation", "test") for name in results)
    files = ["config.json", "manifest.json", "metrics.jsonl", "learning_curves.png", "checkpoints", "tensorboard"]
    assert all((folder / name).exists() for name in files)
    for figure in ("data_wait_percent", "host_milliseconds_per_step"):
        assert figure in stdout
    evaluated = run("evaluate", f"--workdir={folder}")
    assert evaluated.code == 0, evaluated.stderr
    for name, value in results.items():
        assert f"{name} {value:.4f}" in evaluated.stdout


@pytest.mark.parametrize("config", CONFIGS)
def test_full_size_builds_every_section(config, data, tmp_path):
    spec, overrides = spec_and_overrides(config, data)
    small = {"task.tokenizer.vocab_size": "300"}  # what the stand-ins can fill
    if "wmt14" in config:
        overrides = small | {"training.batch_tokens": "256"}
    if "gpt2" in config:
        spec, overrides = f"{spec}validation={data / 'documents.jsonl'}", small | {"training.batch_size": "8"}
    if "lm1b" in config:
        overrides = small | {"training.batch_size": "64"}
    experiment = build_experiment(load(spec.rstrip(",:"), overrides), tmp_path)
    assert experiment.run.abstract_state.params and len(experiment.run.batches) > 30


@pytest.mark.parametrize("config", CONFIGS)
def test_docstring_states_command_hardware_and_expectation(config):
    text = (ROOT / config).read_text()
    assert f"--config={config}" in text and ("ardware" in text or "CPU" in text)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_every_size_of_gpt2_is_a_model(size, style):
    """Width and layers of table 2 of Radford et al. 2019; heads of keys and values divide those of queries."""
    config = load(f"configs/language/gpt2.py:size={size},style={style}")
    model = choose(MODELS, config.model, "model", vocab_size=50_257)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8), jnp.int32))["params"]
    millions = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 1e6
    if style == "gpt2":
        published = {"gpt2": 124.44, "gpt2_medium": 354.82, "gpt2_large": 774.03, "gpt2_xl": 1557.61}
        assert millions == pytest.approx(published[size], abs=0.01)


def test_wmt14_translates_in_the_direction_of_its_name(data):
    """The builder's own order is (de, en), whose default direction is German to English."""
    import tensorflow_datasets.translate

    order = tensorflow_datasets.translate.Wmt14Translate.builder_configs["de-en"].language_pair
    assert order == ("de", "en")
    for direction, source, target in (("en-de", "Good", "Guten"), ("de-en", "Guten", "Good")):
        config = load(f"configs/translation/wmt14.py:direction={direction},data_dir={data / 'tfds'}")
        example = choose(SOURCES, config.data, "data").examples("train")[0]
        assert example["source"].startswith(source) and example["target"].startswith(target)


def test_recurrent_baseline_and_raw_text_run(data, tmp_path, run):
    for split, name in (("valid", "val"), ("test.2016", "test_2016_flickr")):
        for language in ("en", "de"):
            (data / f"{name}.{language}.gz").write_bytes((data / f"{split}.{language}.gz").read_bytes())
    spec = f"configs/translation/multi30k.py:folder={data},model=rnn,data=raw,tiny"
    done = run("train", f"--config={spec}", f"--workdir={tmp_path / 'run'}", "--config.task.tokenizer.vocab_size=300",
               "--config.task.max_length=64")  # fmt: skip
    assert done.code == 0, done.stderr
    assert "test/chrf" in done.stdout
