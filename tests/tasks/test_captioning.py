"""Captions: the loss by hand, decoding that follows the model's own logits, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.scenes import Scenes
from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.models.captioner import Captioner
from research.models.segformer import SegFormer
from research.models.vit import ViT
from research.tasks.captioning import Captioning
from tests.layers.random_params import random_params

SOURCE = Scenes(size=16, most=2, num_train=40)
EXAMPLES = [SOURCE.examples("train")[index] for index in range(3)]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return Captioning(tokenizer=Tokenizer(), length=12).prepare(SOURCE, tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def model(task):
    image = ViT(0, patch_size=8, width=8, num_layers=1, num_heads=2, mlp_width=8)
    return Captioner(**task.model_fields(), image=image, width=8, num_layers=1, num_heads=2, mlp_width=8, dropout=0.0)


@pytest.fixture(scope="module")
def batch(task):
    weight = np.array([1, 1, 0], np.float32)
    return jax.tree.map(jnp.asarray, task.rows(EXAMPLES, train=True, seed=0).first(3) | {"weight": weight})


@pytest.fixture(scope="module")
def variables(task, model, batch):
    return random_params(model, *task.model_inputs(batch))


def test_the_loss_is_the_cross_entropy_of_the_next_tokens(task, model, batch, variables):
    def apply(*inputs, method=None):
        return model.apply(variables, *inputs, method=method), {}

    metrics, _ = task.loss(apply, batch)
    logits = np.float64(model.apply(variables, *task.model_inputs(batch)))
    caption = np.asarray(batch["caption"])
    total = count = 0
    for row in (0, 1):
        for place, token in enumerate(caption[row, 1:]):
            if token:
                each = logits[row, place]
                total += np.log(np.exp(each - each.max()).sum()) + each.max() - each[token]
                count += 1
    assert metrics["nats_per_token"][0] == pytest.approx(total, rel=1e-4) and metrics["loss"][1] == count


def test_greedy_captions_follow_the_logits(task, model, batch, variables):
    tokens = np.asarray(task.predict(model, variables, {"image": batch["image"]}))
    assert tokens.shape == (3, 12) and (tokens[:, 0] == task.vocabulary.start_token).all()
    logits = np.array(model.apply(variables, task.normalised(batch["image"]), jnp.asarray(tokens[:, :-1])))
    logits[..., [0, task.vocabulary.start_token]] = -np.inf
    for row in range(3):
        for place, token in enumerate(tokens[row, 1:]):
            if token == 0:
                assert task.vocabulary.end_token in tokens[row, : place + 1]
                break
            assert token == logits[row, place].argmax()
    assert isinstance(task.answer(EXAMPLES[0], [tokens[0]])["text"], str)


def test_beams_are_at_least_as_probable_and_samples_are_drawn(task, model, batch, variables):
    def logarithm(tokens):
        logits = model.apply(variables, task.normalised(batch["image"]), tokens[:, :-1])
        logits = logits.at[..., jnp.array([0, task.vocabulary.start_token])].set(-jnp.inf)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)[..., 0]
        return np.asarray(jnp.where(tokens[:, 1:] > 0, picked, 0).sum(axis=1))

    images = {"image": batch["image"]}
    greedy = task.predict(model, variables, images)
    beams = task.answering(beam_size=4, length_penalty=0.0).predict(model, variables, images)
    assert (logarithm(beams) >= logarithm(greedy) - 1e-4).all()
    drawn = [
        np.asarray(task.answering(temperature=5.0, sample_seed=seed).predict(model, variables, images))
        for seed in (0, 0, 1)
    ]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    with pytest.raises(UserError, match="a beam_size of 4 draws nothing: leave temperature out, or set it to 1"):
        task.answering(temperature=1.0, beam_size=4)


def test_a_caption_depends_on_its_image_and_on_no_later_token(model, batch, task, variables):
    images, tokens = task.model_inputs(batch)
    logits = model.apply(variables, images, tokens)
    changed = model.apply(variables, images, tokens.at[:, 4:].set(5))
    np.testing.assert_allclose(logits[:, :4], changed[:, :4], atol=1e-5)
    assert np.abs(logits - model.apply(variables, images[::-1], tokens))[0, 0].max() > 1e-3


def test_what_is_seen_of_a_caption_is_named_by_the_token_that_it_writes(task):
    question = {"image": EXAMPLES[0]["image"]}
    view = task.view(question, {"text": "a red star"})
    assert view.tokens == {"read": ["<s>", "a", " red", " star"], "written": ["a", " red", " star", "</s>"]}
    images, target = view.inputs
    assert [task.vocabulary.id_to_token(int(token)) for token in target[0, :4]] == view.tokens["read"]
    labels = task.rows([question | {"caption": "a red star"}], train=False, seed=0).first()["caption"][0, 1:]
    assert [task.vocabulary.id_to_token(int(token)) for token in labels[:4]] == view.tokens["written"]
    assert target.shape == (1, task.length - 1) and images.shape == (1, 16, 16, 3)
    np.testing.assert_array_equal(view.image, question["image"])
    assert task.view(question, {"text": " "}) is None


def test_what_does_not_fit(task, model, batch):
    with pytest.raises(UserError, match="model ViT does not write captions: use captioner"):
        task.with_head(model.image)
    with pytest.raises(UserError, match=r"task\.length 12 exceeds model\.max_length 4: use at most that"):
        task.with_head(model.clone(positions="learned", max_length=4))
    with pytest.raises(UserError, match=r"model\.image has no feature levels: use vit"):
        image = SegFormer(3, (8, 8, 16, 16), (1, 1, 1, 1), 8, (1, 2, 2, 4))
        model.clone(image=image).init(jax.random.key(0), *task.model_inputs(batch))
    with pytest.raises(UserError, match="a caption is empty"):
        task.rows([{**EXAMPLES[0], "caption": ""}], train=True, seed=0).first()
