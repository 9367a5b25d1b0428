import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.layers.scan import stacked, unstacked
from research.models.gpt import GPT
from research.models.mae import MAE
from research.models.seq2seq import Seq2Seq
from research.models.vit import ViT
from research.parallel.sharding import by_path
from research.training.transfer import Transfer, transferred, with_given
from tests.layers.random_params import random_params

TOKENS = jnp.array([[1, 2, 3, 4], [5, 4, 3, 0]])
IMAGES = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
SMALL = {"width": 8, "num_layers": 2, "num_heads": 2, "mlp_width": 16}
MODELS = {
    "gpt": (GPT(9, **SMALL, max_length=4, num_kv_heads=1), (TOKENS,)),
    "seq2seq": (
        Seq2Seq(9, **SMALL, num_decoder_layers=3, norm="pre", positions="relative_bias"),
        (TOKENS, TOKENS[:, :3], TOKENS > 0),
    ),
    "vit": (ViT(3, 4, **SMALL, layer_scale=0.1), (IMAGES,)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scan", [False, True])
def test_a_model_starts_from_the_same_one_with_its_layers_in_the_other_form(name, scan):
    model, inputs = MODELS[name]
    source, model = model.clone(scan=not scan), model.clone(scan=scan)
    variables = random_params(source, *inputs)
    fresh = model.init(jax.random.key(1), *inputs)["params"]
    given = transferred(Transfer("there", new=()), by_path(variables["params"]), [fresh])
    given = jax.tree.map(jnp.asarray, given)
    answers = model.apply({"params": with_given(fresh, given)}, *inputs)
    np.testing.assert_allclose(answers, source.apply(variables, *inputs), atol=1e-5)
    there_and_back = unstacked(stacked(given, by_path(variables["params"])), by_path(variables["params"]))
    assert set(there_and_back) == set(by_path(variables["params"]))
    for path, array in by_path(variables["params"]).items():
        np.testing.assert_array_equal(there_and_back[path], array)


@pytest.mark.parametrize("scan", [False, True])
def test_a_classifier_starts_from_an_encoder_of_the_other_form(scan):
    """The decoder is left out whatever its form, and layers that the smaller model lacks by their numbers."""
    fields = SMALL | {"num_layers": 3}
    mae = MAE(4, **fields, decoder_width=8, decoder_layers=2, decoder_heads=2, scan=not scan)
    vit = ViT(3, 4, **SMALL, positions="sincos2d", scan=scan)
    order = jnp.array([[0, 1, 2, 3]] * 2)
    source = by_path(random_params(mae, IMAGES, order)["params"])
    wanted = jax.eval_shape(vit.init, jax.random.key(0), IMAGES)["params"]
    drop = ("^decoder", "^mask_token", "^head/", "^encoder/layer_2/")
    given = transferred(Transfer("there", drop=drop), source, [wanted])
    assert set(given) == {path for path in by_path(wanted) if not path.startswith("head/")}
    stacks, singles = (given, source) if scan else (source, given)
    second = stacks["encoder/layers/feed_forward/up/bias"][1]
    np.testing.assert_array_equal(second, singles["encoder/layer_1/feed_forward/up/bias"])
    with pytest.raises(UserError, match=r"encoder/layer.* is \(3|has 1[0-9] parameters that the model lacks"):
        transferred(Transfer("there", drop=drop[:3]), source, [wanted])


def test_what_cannot_be_stacked_or_is_not_wanted_stays():
    one, two = np.zeros(2), np.zeros(3)
    wanted = {"encoder/layers/up", "layers/up"}
    gap = {"encoder/layer_0/up": one, "encoder/layer_2/up": one}
    uneven = {"encoder/layer_0/up": one, "encoder/layer_1/up": two}
    elsewhere = {"decoder/layer_0/up": one, "other": one}
    for arrays in (gap, uneven, elsewhere):
        assert stacked(arrays, wanted) == arrays
    ten = {f"layer_{number}/up": np.full(2, number) for number in reversed(range(11))}
    np.testing.assert_array_equal(stacked(ten, wanted)["layers/up"][:, 0], np.arange(11))
    assert unstacked({"layers/up": np.float32(3)}, {"layer_0/up"}) == {"layers/up": 3}
    assert unstacked({"layers/up": one}, {"layers/up"}) == {"layers/up": one}


@pytest.mark.parametrize("scan", [(False, False), (False, True), (True, False), (True, True)])
def test_a_model_starts_from_some_layers_of_another(scan):
    """As one that was cut by hand: the layers 2 and 0 of 3, in this order, of either form."""
    from_scanned, to_scanned = scan
    model, inputs = MODELS["vit"]
    deep = model.clone(num_layers=3)
    params = by_path(random_params(deep, *inputs)["params"])
    cut = {path: array for path, array in params.items() if "layer_" not in path}
    for new, old in enumerate((2, 0)):
        prefixes = f"encoder/layer_{old}/", f"encoder/layer_{new}/"
        cut |= {path.replace(*prefixes): array for path, array in params.items() if path.startswith(prefixes[0])}
    fresh = model.init(jax.random.key(1), *inputs)["params"]
    expected = model.apply({"params": with_given(fresh, cut)}, *inputs)
    if from_scanned:
        shapes = jax.eval_shape(deep.clone(scan=True).init, jax.random.key(0), *inputs)["params"]
        params = stacked(params, by_path(shapes))
    target = model.clone(scan=to_scanned)
    start = target.init(jax.random.key(1), *inputs)["params"]
    given = transferred(Transfer("there", new=(), layers=(2, 0)), params, [start])
    given = jax.tree.map(jnp.asarray, given)
    found = target.apply({"params": with_given(start, given)}, *inputs)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(UserError, match=r"transfer.layers \(0, 3\) picks from more layers than the 3 of there: use"):
        transferred(Transfer("there", new=(), layers=(0, 3)), params, [start])
    with pytest.raises(
        UserError, match=r"transfer.layers \(\) picks layers of a source: give some, without transfer.whole"
    ):
        Transfer("there", layers=())
