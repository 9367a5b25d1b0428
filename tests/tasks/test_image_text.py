"""Images and captions: the loss in chunks, answers by prompts, and each sentence that a person can be told."""

import json
import types
from multiprocessing.reduction import ForkingPickler

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.train import train
from research.config import load
from research.data.captions import Captions
from research.data.scenes import Scenes
from research.data.source import Mixed, Withheld
from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.metrics.retrieval import ImageTextScorer
from research.models.gpt import GPT
from research.models.resnet import ResNet
from research.models.two_towers import TwoTowers
from research.models.vit import ViT
from research.reports import samples
from research.runs.experiment import build_experiment
from research.tasks.image_text import ImageText
from tests.captions import write_captions
from tests.layers.random_params import random_params

SOURCE = Scenes(size=16, most=2, num_train=40)
EXAMPLES = [SOURCE.examples("train")[index] for index in range(8)]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return ImageText(tokenizer=Tokenizer(), length=16).prepare(SOURCE, tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def model(task):
    image = ViT(0, patch_size=8, width=8, num_layers=1, num_heads=2, mlp_width=8)
    return TwoTowers(image, GPT(task.vocabulary.vocab_size, 1, 8, 2, max_length=16), 8, scale=10.0, bias=-10.0)


@pytest.fixture(scope="module")
def batch(task):
    weights = np.array([1, 1, 0, 1, 1, 1, 1, 1], np.float32)
    return jax.tree.map(jnp.asarray, task.rows(EXAMPLES, train=True, seed=0).first(8) | {"weight": weights})


@pytest.fixture(scope="module")
def params(task, model, batch):
    return random_params(model, *task.model_inputs(batch))["params"]


def loss_and_gradients(task, model, params, batch):
    def loss(params):
        def apply(*inputs, method=None):
            return model.apply({"params": params}, *inputs, train=True, method=method), {}

        total, weight = task.loss(apply, batch)[0]["loss"]
        return total / weight

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("objective", ["clip", "siglip"])
def test_chunks_change_neither_loss_nor_gradients(task, model, params, batch, objective):
    results = []
    for chunk in (None, 4, 1):
        changed = ImageText(**{**vars(task), "objective": objective, "chunk": chunk})
        results.append(loss_and_gradients(changed, model, params, batch))
    whole, *parts = results
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole[1]))
    for loss, gradients in parts:
        assert loss == pytest.approx(float(whole[0]), rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale), gradients, whole[1])


def test_chunks_hold_less_memory(task, model, params, batch):
    """The compiler's own account of a batch of 64."""
    more = {name: jnp.tile(array, (8,) + (1,) * (array.ndim - 1)) for name, array in batch.items()}
    sizes = []
    for chunk in (None, 8):
        changed = ImageText(**{**vars(task), "chunk": chunk})

        def loss(params, changed=changed):
            def apply(*inputs, method=None):
                return model.apply({"params": params}, *inputs, train=True, method=method), {}

            return changed.loss(apply, more)[0]["loss"][0]

        compiled = jax.jit(jax.grad(loss)).lower(params).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[1] < sizes[0] / 2


def test_the_statistics_of_a_batchnorm_reach_the_state(task, batch):
    image = ResNet(0, depths=(1,), bottleneck=False, width=8, small_images=True)
    model = TwoTowers(image, GPT(task.vocabulary.vocab_size, 1, 8, 2, max_length=16), 8)
    variables = model.init(jax.random.key(0), *task.model_inputs(batch))

    def apply(*inputs, method=None):
        return model.apply(variables, *inputs, train=True, method=method, mutable=["batch_stats"])

    _, updates = ImageText(**{**vars(task), "chunk": 4}).loss(apply, batch)
    before = jax.tree.leaves(variables["batch_stats"])
    assert any(
        np.abs(new - old).max() > 1e-4 for new, old in zip(jax.tree.leaves(updates["batch_stats"]), before, strict=True)
    )
    assert jax.tree.map(jnp.shape, updates["batch_stats"]) == jax.tree.map(jnp.shape, variables["batch_stats"])


def test_a_class_is_the_mean_of_its_prompts(task, model, params):
    """Each prompt's vector is normalised, their mean too (Radford et al. 2021); the answer is the nearest class."""
    classes, templates = ("red star", "blue bar", "green cross"), ("a {}", "a {} above a red bar")
    asked = task.answering(classes=list(classes), templates=list(templates))
    rows = asked.questions([{"image": each["image"]} for each in EXAMPLES])
    answers = asked.predict(model, {"params": params}, jax.tree.map(jnp.asarray, rows.first(8)))
    vectors = []
    for name in classes:
        tokens = jnp.asarray(task.tokens([template.replace("{}", name) for template in templates]))
        prompts = np.float64(model.apply({"params": params}, tokens, tokens > 0, method="text_vectors"))
        mean = (prompts / np.linalg.norm(prompts, axis=1, keepdims=True)).mean(axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    cosines = np.float64(answers["vector"]) @ np.array(vectors).T
    logits = np.exp(float(params["log_scale"])) * cosines
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers["probabilities"], expected, rtol=1e-4)
    row = jax.tree.map(lambda leaf: np.asarray(leaf[0]), answers)
    answer = asked.answer({"image": EXAMPLES[0]["image"]}, [row])
    assert answer["label"] == classes[expected[0].argmax()] and "right" not in answer
    labelled = asked.answer({"image": EXAMPLES[0]["image"], "label": 1}, [row])
    assert labelled["right"] == "blue bar"


def test_rows_travel_to_other_processes(task):
    for rows in (task.rows(EXAMPLES, train=True, seed=0), task.questions(EXAMPLES)):
        assert ForkingPickler.dumps(rows)


def test_labelled_images_are_captioned_by_their_class(task):
    asked = task.answering(classes=["red star", "blue bar"], templates=["a {}", "the {}"])
    examples = [{"image": EXAMPLES[0]["image"], "label": label} for label in (1, 0)]
    rows = asked.rows(examples, train=False, seed=0).first(2)
    assert rows["caption"].tolist() == task.tokens(["a blue bar", "a red star"]).tolist()
    assert set(asked.questions(examples).first()) == {"image"}
    with pytest.raises(UserError, match=r"label 7 has no name among 2 task\.classes: give all, in order"):
        asked.rows([{"image": EXAMPLES[0]["image"], "label": 7}], train=False, seed=0).first()
    with pytest.raises(UserError, match=r"name their classes by task\.classes"):
        task.rows(examples, train=False, seed=0).first()


def test_questions_have_captions_and_twins(task, model, params):
    rows = task.questions(EXAMPLES).first(8)
    assert set(rows) == {"image", "caption", "twin"}
    single = next(number for number, each in enumerate(EXAMPLES) if not each["twin"])
    assert rows["twin"][single].tolist() == rows["caption"][single].tolist()
    answers = task.predict(model, {"params": params}, jax.tree.map(jnp.asarray, rows))
    answer = task.answer(EXAMPLES[0], [jax.tree.map(lambda leaf: np.asarray(leaf[0]), answers)])
    assert {"text", "vector", "caption_vector", "twin_vector"} == set(answer)


def test_what_is_seen_of_an_image_with_a_text_and_without(task, model, params):
    caption = {"image": EXAMPLES[0]["image"], "caption": "a red star"}
    view = task.view(caption, {"text": "0.1"})
    assert view.tokens == {"tokens": ["<s>", "a", " red", " star", "</s>"]} and view.title == "a red star"
    _, tokens, valid = view.inputs
    assert tokens.tolist() == task.tokens(["a red star"]).tolist() and valid.sum() == 5
    assert view.sides("image/encoder/layer_0/self_attention") == ("patches", "patches")
    assert view.sides("text/decoder/layer_0/self_attention") == ("tokens", "tokens")
    asked = task.answering(classes=("red star", "bar"), templates=("a {}",))
    answered = asked.view({"image": caption["image"]}, {"label": "red star"})
    assert answered.tokens["tokens"] == view.tokens["tokens"]
    alone = task.view({"image": caption["image"]}, {"text": "0.1"})
    assert alone.tokens == {} and alone.inputs[1].shape == (1, task.length)
    found = samples.look(model, {"params": params}, alone)
    assert [each["path"] for each in found["layers"]] == ["image/encoder/layer_0/self_attention"]


def test_a_caption_stands_between_its_marks_and_is_cut(task):
    start, end = task.vocabulary.start_token, task.vocabulary.end_token
    tokens = task.tokens(["a red star", "a red star " * 9])
    assert tokens.shape == (2, 16) and tokens[0, 0] == start and end in tokens[0]
    assert tokens[1, 15] == end and (tokens[1] != 0).all()
    assert task.remarks({"caption": " ".join(["a red star"] * 9)}) == ["caption is longer than 14 tokens"]


@pytest.mark.parametrize("options, words", [
    ({"classes": ["a", " "]}, r"class 2 of task\.classes is empty: name it"),
    ({"templates": []}, r"task\.templates is empty"),
    ({"templates": ["a photo"]}, r"task\.templates 'a photo' has no \{\}: write it where the class stands"),
])  # fmt: skip
def test_a_class_without_a_prompt(task, options, words):
    with pytest.raises(UserError, match=words):
        task.answering(**options)


def test_a_prompt_that_is_too_long(task, model, params):
    asked = task.answering(classes=["star"], templates=["red " * 20 + "{}"])
    rows = jax.tree.map(jnp.asarray, asked.questions([{"image": EXAMPLES[0]["image"]}]).first())
    with pytest.raises(UserError, match=r"has \d+ tokens and task\.length is 16: shorten it"):
        asked.predict(model, {"params": params}, rows)


def test_what_does_not_fit(task, model, tmp_path):
    with pytest.raises(UserError, match=r"task\.length 16 exceeds the 8 positions of model\.text: use at most that"):
        task.with_head(model.clone(text=model.text.clone(max_length=8)))
    with pytest.raises(UserError, match="model ViT is not made of two towers: use two_towers"):
        task.with_head(model.image)
    chunked = ImageText(**{**vars(task), "chunk": 4})
    with pytest.raises(UserError, match=r"model\.text\.dropout is not drawn anew for each task\.chunk: set it to 0"):
        chunked.with_head(model.clone(text=model.text.clone(dropout=0.1)))
    with pytest.raises(UserError, match="a caption is empty: write one"):
        task.rows([{"image": EXAMPLES[0]["image"], "caption": " "}], train=True, seed=0).first()
    with pytest.raises(UserError, match=r"task\.length 2 leaves no room"):
        ImageText(tokenizer=Tokenizer(), length=2).prepare(Withheld(tmp_path), tmp_path)
    plain = types.SimpleNamespace(examples=lambda split: [{"image": EXAMPLES[0]["image"]}])
    with pytest.raises(UserError, match="the data have no captions: for images with labels, name their classes"):
        ImageText(tokenizer=Tokenizer()).prepare(plain, tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(UserError, match=r"broken\.png cannot be read as an image"):
        task.example(str(tmp_path / "broken.png"))
    Image.fromarray(EXAMPLES[0]["image"]).save(tmp_path / "whole.png")
    np.testing.assert_array_equal(task.example(str(tmp_path / "whole.png"))["image"], EXAMPLES[0]["image"])


def test_each_score_that_is_measured_may_choose_the_best_checkpoint(task):
    labelled = [{"image": EXAMPLES[0]["image"], "label": 1}]
    asked = task.answering(classes=["red star", "blue bar"])
    assert asked.score_names(labelled) == ["zero_shot_accuracy"] and not task.score_names(labelled)
    assert [*task.score_names(EXAMPLES)][8:] == ["relation", "nouns"]
    single = [{**each, "twin": ""} for each in EXAMPLES]
    assert [*task.score_names(single)] == [*ImageTextScorer.of_captions]


@pytest.mark.parametrize(("best", "most", "words"), [
    ("relation", 2, None),
    ("nouns", 1, "checkpoint.best 'validation/nouns' is not measured: use one of .*text_to_image_mrr$"),
    ("zero_shot_accuracy", 2, "is not measured: use one of .*validation/relation, validation/nouns$"),
])  # fmt: skip
def test_the_best_by_a_score_of_twins(best, most, words, tmp_path):
    overrides = {"checkpoint.best": f"validation/{best}", "training.duration": {"steps": 2}, "data.most": most}
    if words:
        with pytest.raises(UserError, match=words):
            train("configs/multimodal/clip_scenes.py:tiny", tmp_path, overrides)
        return
    train("configs/multimodal/clip_scenes.py:tiny", tmp_path, overrides)
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert any("validation/relation" in line for line in lines)


def test_micro_batches_are_refused_and_the_vocabulary_reaches_the_text_tower(tmp_path):
    spec = "configs/multimodal/clip_scenes.py:tiny"
    with pytest.raises(UserError, match=r"training\.accumulate 2 would compare the examples of each micro-batch alone"):
        build_experiment(load(spec, {"training.accumulate": "2"}), tmp_path)
    with pytest.raises(UserError, match=r"model\.text\.vocab_size is 7 but must be \d+: remove it"):
        build_experiment(load(spec, {"model.text.vocab_size": "7"}), tmp_path)
    experiment = build_experiment(load(spec), tmp_path)
    assert experiment.model.text.vocab_size == experiment.task.vocabulary.vocab_size


def test_labelled_images_make_a_vocabulary_of_their_classes(tmp_path):
    overrides = {"task.classes": [f"number {n}" for n in range(10)], "task.augmentation": {}}
    config = load("configs/multimodal/clip_scenes.py:tiny", overrides)
    config.data = {"name": "digits"}
    vocabulary = build_experiment(config, tmp_path).task.vocabulary
    assert vocabulary.decode(vocabulary.encode("number 7")) == "number 7"


def test_captions_of_a_mixture_are_those_of_its_parts(tmp_path):
    """All of them, though no image is read."""
    folders = [write_captions(tmp_path / name) for name in "ab"]
    sources = [Captions(f"{folder}/captions_train.tsv", images=f"{folder}/images") for folder in folders]
    parts = [source.examples("train") for source in sources]
    task = ImageText(tokenizer=Tokenizer("wordpiece", 100))
    texts = task._texts_of(Mixed(tuple(parts), None))
    assert [each["caption"] for each in texts] == [*parts[0].captions, *parts[1].captions]
    assert parts[0][0]["name"] != parts[1][0]["name"]
