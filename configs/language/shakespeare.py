"""Character-level language model of a text file: nanoGPT's two recipes for tiny Shakespeare (karpathy/nanoGPT README).

    python -m experiments.train --config=configs/language/shakespeare.py:size=cpu --workdir=runs/shakespeare \
        --config.data.path=input.txt

size=cpu: 4 layers, width 128, context 64, batch 12, 2,000 steps; published validation loss 1.88 nats a character in
about 3 minutes on a laptop CPU. Where this differs: learning rate 2e-3 (nanoGPT: 1e-3).
size=gpu: 6 layers, width 384, context 256, batch 64, 5,000 steps, dropout 0.2; best published validation loss 1.4697 in
about 3 minutes on one A100. The last 10 % of the file is the validation split.

Hardware: size=cpu 2 CPU cores, 1.7995 nats in 2 minutes; size=gpu a GPU, not yet run here.
"""

from ml_collections import ConfigDict

from research.config import argument
from research.search_space import Space, choice


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: size (cpu, gpu), tiny."""
    options = argument(arg, size=("cpu", "gpu"), tiny=False)
    gpu = options.size == "gpu"
    config = ConfigDict({"seed": 0})
    config.data = {"name": "text_file", "path": "input.txt", "validation_fraction": 0.1}
    length = 256 if gpu else 64
    tokenizer = {"kind": "character", "specials": False}
    config.task = {"name": "language_modeling", "tokenizer": tokenizer, "length": length}
    config.model = {
        "name": "gpt",
        "num_layers": 6 if gpu else 4,
        "width": 384 if gpu else 128,
        "num_heads": 6 if gpu else 4,
        "max_length": length,
        "dropout": 0.2 if gpu else 0.0,
        "use_bias": False,
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 1e-3 if gpu else 2e-3,
        "b2": 0.99,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
    }
    config.schedule = {"name": "cosine", "warmup": {"steps": 100}, "final": 0.1}
    config.training = {
        "batch_size": 64 if gpu else 12,
        "duration": {"steps": 5000 if gpu else 2000},
        "evaluate_every": {"steps": 250},
        "log_every": 50,
        "precision": "params=float32,compute=bfloat16" if gpu else "params=float32,compute=float32",
    }
    config.checkpoint = {"every": {"steps": 250}, "best": "validation/loss"}
    target = 1.4697 if gpu else 1.88
    config.expect = {"metric": "validation/loss", "value": target, "tolerance": 0.03}
    if options.tiny:
        config.task.length = config.model.max_length = 16
        config.model.update(num_layers=1, width=16, num_heads=2)
        config.training.update(batch_size=8, duration={"steps": 6}, evaluate_every={"steps": 3}, log_every=2)
        config.checkpoint.every = {"steps": 3}
        del config.expect
    return config


def sweep() -> Space:
    """Learning rate by dropout, a grid."""
    return {
        "optimizer.learning_rate": choice([5e-4, 1e-3, 2e-3, 4e-3]),
        "model.dropout": choice([0.0, 0.1, 0.2]),
    }
