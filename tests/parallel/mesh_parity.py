"""Loss and gradients of one training batch on several meshes: `python -m tests.parallel.mesh_parity MODEL`.

Prints, for each mesh, the relative deviations from a single device as JSON. Needs 8 devices.
"""

import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from research.config import load
from research.parallel.mesh import place_batch
from research.runs.experiment import build_experiment
from research.training.run import Run
from research.training.state import TrainState
from tests.image_masks import write_masks

MESHES = {
    "8 x dp": {"data": 8},
    "8 x fsdp": {"data": 1, "fsdp": 8},
    "2x4 fsdp_tensor": {"data": 1, "fsdp": 2, "tensor": 4},
    "sequence 4": {"data": 2, "sequence": 4},
    "all axes": {"data": 1, "fsdp": 2, "tensor": 2, "sequence": 2},
}
SEQUENCES = ("gpt", "seq2seq", "vit")
FEW_MESHES = ("2x4 fsdp_tensor", "all axes")
"""Enough for the others, which are made of the same layers or have no sequence to split: they compile for minutes."""
MESHES_OF = dict.fromkeys(SEQUENCES, tuple(MESHES)) | {"two_towers": ("8 x dp", "2x4 fsdp_tensor")}
"""A batch whose examples are compared with each other lies on all devices."""

MEMBRANE = "configs/vision/membrane.py:tiny"
TRANSFORMER = {"width": 64, "num_heads": 4, "mlp_width": 128, "dropout": 0.1}
CASES = {
    "bert": ("configs/language/sentences.py:tiny", {"width": 64, "num_heads": 4, "mlp_width": 128}),
    "captioner": ("configs/multimodal/caption_scenes.py:tiny", {}),
    "decoder": ("configs/theory/grokking.py:tiny", {"width": 64, "num_heads": 4, "mlp_width": 128, "dropout": 0.1}),
    "detr": (
        "configs/vision/detr_scenes.py:glyphs=shapes,tiny",
        {
            "backbone": {"name": "vit", "num_classes": 0, "patch_size": 4, "pool": "mean", "width": 64, "num_layers": 1}
            | {"num_heads": 4, "mlp_width": 128},
            "num_queries": 8,
            "width": 64,
            "num_heads": 4,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "mlp_width": 128,
        },
    ),
    "efficientformer": (
        "configs/vision/digits.py:tiny",
        {"depths": (1, 1, 1, 2), "widths": (16, 16, 16, 16), "num_attention": 1, "resolution": 1},
    ),
    "gpt": ("configs/language/shakespeare.py:tiny", {**TRANSFORMER, "num_kv_heads": 4, "scan": True}),
    "mae": (
        "configs/vision/mae.py:tiny",
        {"width": 64, "num_heads": 4, "mlp_width": 128, "decoder_width": 64, "decoder_heads": 4},
    ),
    "mobilenet": ("configs/vision/digits.py:tiny", {"multiplier": 0.1, "head_width": 64}),
    "resnet": (
        "configs/vision/digits.py:tiny",
        {"depths": (1, 1), "bottleneck": True, "width": 16, "small_images": True},
    ),
    "rnn": ("configs/translation/phrasebook.py:tiny", {"num_layers": 1, "width": 64}),
    "segformer": (
        MEMBRANE,
        {"widths": (16,) * 4, "depths": (1,) * 4, "decoder_width": 16, "num_heads": (4,) * 4, "stochastic_depth": 0.0},
    ),
    "segmenter": (
        "configs/vision/segmenter_scenes.py:tiny",
        {
            "encoder": {"name": "vit", "num_classes": 0, "patch_size": 4, "pool": "cls", "width": 64, "num_layers": 1}
            | {"num_heads": 4, "mlp_width": 128, "dropout": 0.1},
            "num_heads": 4,
            "num_layers": 1,
        },
    ),
    "seq2seq": ("configs/translation/phrasebook.py:tiny", {**TRANSFORMER, "attention_dropout": 0.1, "remat": "full"}),
    "swin": (
        "configs/vision/digits.py:tiny",
        {"width": 16, "depths": (2, 1), "num_heads": (4, 4), "window": 2, "patch_size": 2},
    ),
    "transunet": (
        MEMBRANE,
        {
            "backbone": {"name": "resnet", "num_classes": 0, "depths": (1, 1), "bottleneck": False, "width": 16}
            | {"stem_level": True},
            "encoder": {"name": "vit", "num_classes": 0, "patch_size": 1, "width": 64, "num_layers": 1}
            | {"num_heads": 4, "mlp_width": 128, "dropout": 0.1, "pool": "mean"},
            "widths": (16,) * 4,
        },
    ),
    "two_towers": ("configs/multimodal/clip_scenes.py:tiny", {}),
    "unet": (MEMBRANE, {"width": 16, "depth": 2}),
    "upernet": (
        MEMBRANE,
        {"backbone": {"name": "resnet", "num_classes": 0, "depths": (1, 1), "bottleneck": False, "width": 16}}
        | {"width": 16},
    ),
    "vit": (
        "configs/vision/digits.py:tiny",
        {**TRANSFORMER, "num_layers": 2, "pool": "attention", "registers": 2, "layer_scale": 0.1, "qk_norm": True},
    ),
}
"""Every model by its name in `research.runs.experiment.MODELS`: a config, and fields of the model."""


def build(model: str, mesh: dict[str, int], folder: Path) -> Run:
    """The model's run on this mesh."""
    spec, fields = CASES[model]
    text = folder / "text.txt"
    text.write_text("To be, or not to be, that is the question:\n" * 40)
    paths = {"shakespeare": str(text), "membrane": write_masks(folder / "masks")}
    path = next((paths[name] for name in paths if name in spec), None)
    config = load(spec, {"data.path": path} if path else {})
    if model in ("efficientformer", "mobilenet", "resnet", "segformer", "transunet", "unet", "upernet"):
        config.training.batch_size = 64  # statistics of few examples magnify rounding
    if model == "two_towers":
        config.training.batch_size, config.task.chunk = 32, 16
        config.model.image.update(num_heads=4)
        config.model.text.update(num_heads=4)
    elif model == "captioner":
        config.model.update(num_heads=4)
        config.model.image.update(num_heads=4)
    elif model not in ("decoder", "gpt", "mae", "seq2seq", "vit"):
        config.model = {"name": model, **fields}
    else:
        config.model.update(fields)
    config.mesh = mesh
    return build_experiment(config, folder).run


def compute(run: Run, params: dict, model_state: dict, batch: dict) -> tuple[float, dict]:
    """The loss of a batch, and its gradients and the model's new state, with dropout."""

    def loss(params):
        def apply(*inputs, method=None):
            rngs, variables = {"dropout": jax.random.key(1)}, {"params": params, **model_state}
            return run.step.model.apply(
                variables, *inputs, train=True, method=method, rngs=rngs, mutable=list(model_state)
            )

        metrics, updates = run.step.task.loss(apply, batch)
        total, weight = metrics["loss"]
        return total / weight, updates

    (value, updates), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return float(value), jax.device_get({"gradients": gradients, "state": updates})


def deviation(gradients: dict, expected: dict) -> float:
    """The largest distance of any parameter's gradient, relative to the norm of the expected one.

    Where that is a thousandth of the whole gradient's or less (biases of keys, whose gradient is zero but for
    rounding), relative to such a thousandth.
    """
    norms = [np.linalg.norm(leaf) for leaf in jax.tree.leaves(expected)]
    distances = [np.linalg.norm(leaf) for leaf in jax.tree.leaves(jax.tree.map(np.subtract, gradients, expected))]
    least = 1e-3 * np.linalg.norm(norms)
    return float(max(distance / max(norm, least) for distance, norm in zip(distances, norms, strict=True)))


def random_state(state: TrainState) -> tuple[dict, dict]:
    """Parameters away from zero, so that every one of them has a gradient, and the model's state."""
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.05 * random.normal(size=leaf.shape).astype(np.float32), state.params)
    return params, state.model_state


def _shardings(state: TrainState) -> tuple[dict, dict]:
    return jax.tree.map(lambda leaf: leaf.sharding, (state.params, state.model_state))


def main(model: str) -> None:
    """Prints the deviations of every mesh."""
    deviations, expected = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in MESHES_OF.get(model, FEW_MESHES):
            mesh = MESHES[name]
            run = build(model, mesh, Path(folder))
            state, batch = run.create_state(), run.batches[0]
            variables = jax.tree.map(jax.device_put, random_state(state), _shardings(state))
            shapes = tuple(array.shape for array in batch.values())
            if shapes not in expected:  # no mesh, one device; meshes may pad batches
                expected[shapes] = compute(run, *jax.device_get(variables), batch)
            with jax.set_mesh(run.mesh):
                value, gradients = compute(run, *variables, place_batch(batch, run.mesh))
            loss, reference = expected[shapes]
            deviations[name] = [abs(value / loss - 1), deviation(gradients, reference)]
    print(json.dumps(deviations))


if __name__ == "__main__":
    main(sys.argv[1])
