"""Which part of an image speaks for a class: gradient-weighted maps of any model with a feature map."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def grad_cam(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Float[Array, "batch height width channels"],
    classes: Int[Array, "batch"],
) -> Float[Array, "batch rows columns"]:
    """The channels of the last feature map, weighted by the mean gradient of the class's score with respect to them and
    cut at zero (Selvaraju et al. 2017, equations 1 and 2), for models that have a method `feature_map`."""
    features = model.apply(variables, images, method="feature_map")

    def scores(features):
        def replace(call, arguments, keywords, context):
            same = isinstance(context.module, type(model)) and context.method_name == "feature_map"
            return features if same else call(*arguments, **keywords)

        with nn.intercept_methods(replace):
            logits: Any = model.apply(variables, images)
        return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()

    weights = jax.grad(scores)(features).mean(axis=(1, 2), keepdims=True)
    return jax.nn.relu((features * weights).sum(axis=-1))
