import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx  # noqa: TID251

from research.models.gpt import GPT
from research.models.seq2seq import Seq2Seq
from research.models.vit import ViT

TOKENS = jnp.array([[1, 2, 3]])
MODELS = {
    "seq2seq": (Seq2Seq(9, num_layers=1, width=8, num_heads=2, mlp_width=8), (TOKENS, TOKENS, TOKENS > 0)),
    "gpt": (GPT(9, num_layers=1, width=8, num_heads=2), (TOKENS,)),
    "vit": (ViT(3, 4, width=8, num_layers=1, num_heads=2, mlp_width=8), (jnp.ones((1, 8, 8, 3)),)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_work_as_nnx_modules(name):
    model, inputs = MODELS[name]
    bridged = nnx.bridge.lazy_init(nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)), *inputs)
    params = nnx.to_pure_dict(nnx.state(bridged, nnx.Param))
    np.testing.assert_allclose(bridged(*inputs), model.apply({"params": params}, *inputs), atol=1e-5)
