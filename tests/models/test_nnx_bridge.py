import jax
import numpy as np
import pytest
from flax import nnx  # noqa: TID251

from research.runs.experiment import MODELS as TABLE
from tests.models.tiny import MODELS


def test_every_model_is_tried():
    assert set(MODELS) == set(TABLE)


@pytest.mark.parametrize("name", MODELS)
def test_models_work_as_nnx_modules(name):
    model, inputs = MODELS[name]
    if hasattr(model, "num_classes") and name not in (
        "detr",
        "segformer",
        "segmenter",
        "transunet",
        "unet",
        "upernet",
    ):  # the answers of a new head are zeros
        model = model.clone(num_classes=0)
    bridged = nnx.bridge.lazy_init(nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)), *inputs)
    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    variables = {collection: nnx.to_pure_dict(nnx.state(bridged, kind)) for collection, kind in kinds.items()}
    every = zip(*(jax.tree.leaves(each) for each in (bridged(*inputs), model.apply(variables, *inputs))), strict=True)
    for answers, expected in every:
        scale = np.abs(answers).max()
        assert scale > 0
        np.testing.assert_allclose(answers / scale, expected / scale, atol=1e-5)
