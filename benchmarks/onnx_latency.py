"""Latency of image models by ONNX Runtime and by this project, in turns: `python -m benchmarks.onnx_latency`.

Random weights, batch normalisation folded, one image. Both get as many threads as there are cores. Needs the extra
export with onnx and onnxruntime.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime

from research.analysis.latency import measure
from research.ledger.latency import inference
from research.models import efficientformer
from research.models.efficientformer import EfficientFormer
from research.models.mobilenet import MobileNet
from research.runs.onnx_graph import Constants, onnx_model

MODELS = {
    "MobileNetV2": MobileNet(num_classes=1000),
    "MobileNetV2-140": MobileNet(num_classes=1000, multiplier=1.4, head_width=1792),
    "EfficientFormer-L1": EfficientFormer(num_classes=1000, **efficientformer.fields("L1")),
}


def disturbed(variables: Any) -> dict[str, Any]:
    """Variables whose parameters are all other than their initial ones: heads begin at 0, and say nothing of parity."""
    leaves, tree = jax.tree.flatten(variables["params"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.02 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return {**variables, "params": jax.tree.unflatten(tree, noisy)}


def main(arguments: argparse.Namespace) -> None:
    """Prints medians, quartiles, and the median of the ratios of the turns, above 1 where this project is ahead."""
    image = np.random.default_rng(0).normal(size=(1, arguments.size, arguments.size, 3)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    calls, parity = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, model in MODELS.items():
            if arguments.only and name not in arguments.only:
                continue
            model, variables = inference(model, disturbed(jax.jit(model.init)(jax.random.key(0), image)))
            ours = jax.jit(model.apply).lower(variables, image).compile()
            path = Path(scratch) / f"{name}.onnx"

            def answers(batch, model=model, variables=variables):
                return {"answers": model.apply(variables, batch["image"])}

            shapes = {"image": jax.ShapeDtypeStruct(image.shape, image.dtype)}
            path.write_bytes(onnx_model(answers, shapes, Constants(path.with_suffix(".bin"))))
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            calls[name, "heed"] = lambda ours=ours, variables=variables: ours(variables, image)
            calls[name, "onnx"] = lambda session=session: session.run(None, {"image": image})
            expected = np.asarray(ours(variables, image))
            difference = np.abs(session.run(None, {"image": image})[0] - expected).max()
            parity[name] = difference, np.abs(expected).max()
        seconds = measure(calls, arguments.rounds)
    for name, (difference, largest) in parity.items():
        ours, theirs = (1000 * seconds[name, side] for side in ("heed", "onnx"))
        shown = (f"{np.median(one):.1f} ms ({', '.join(f'{q:.1f}' for q in np.quantile(one, (0.25, 0.75)))})"
                 for one in (ours, theirs))  # fmt: skip
        print(f"{name}: heed {next(shown)}, onnxruntime {next(shown)}, ratio {np.median(theirs / ours):.2f}, "
              f"largest difference {difference:.2g} of values up to {largest:.2g}", flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx_latency", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="turns that are measured")
    parser.add_argument("--size", type=int, default=224, help="pixels on a side")
    parser.add_argument("--only", nargs="*", choices=list(MODELS), help="these models")
    main(parser.parse_args())
