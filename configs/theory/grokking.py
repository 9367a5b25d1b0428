"""Grokking: a small Transformer learns division modulo 97 long after it knows its training table by heart.

    python -m experiments.train --config=configs/theory/grokking.py --workdir=runs/grokking

Power et al. 2022, "Grokking: Generalization Beyond Overfitting on Small Algorithmic Datasets" (section 3.1, appendix
A.1): half of all equations a / b = c (mod 97) are trained on; training accuracy reaches 100 % early, accuracy on the
other half stays near chance and then climbs above 99 %. Recipe: a decoder of 2 layers, width 128 and 4 heads, AdamW
with learning rate 1e-3, weight decay 1 and (0.9, 0.98), 10 steps of warm-up, batches of 512, loss on the answer alone.

Where this differs: biases, initial weights and the decay of norms and biases (none) are this project's; 6,000 steps of
at most 100,000; accuracy is that of the best checkpoint, since large weight decay makes both accuracies dip for some
steps now and then. GPT in its place (pre-norm, output tied to the embedding, small initial weights) generalises after
300 steps, at the same time as it learns the training table.

Hardware: 2 CPU cores, about 8 minutes. Expected: validation/accuracy above 0.99.
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: tiny."""
    options = argument(arg, tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "modular", "operation": "/", "modulus": 97, "train_fraction": 0.5}
    config.task = {"name": "next_token", "tokenizer": {"kind": "whitespace"}}
    config.model = {"name": "decoder", "num_layers": 2, "width": 128, "num_heads": 4}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "b2": 0.98, "weight_decay": 1.0}
    config.schedule = {"name": "constant", "warmup": {"steps": 10}}
    config.training = {
        "batch_size": 512,
        "duration": {"steps": 6000},
        "evaluate_every": {"steps": 100},
        "log_every": 10,
    }
    config.checkpoint = {"best": "validation/accuracy", "mode": "max"}
    config.expect = {"metric": "validation/accuracy", "value": 0.99, "tolerance": 0.0}
    if options.tiny:
        config.data.modulus = 7
        config.model.update(num_layers=1, width=16, num_heads=2)
        config.training.update(batch_size=8, duration={"steps": 6}, evaluate_every={"steps": 3}, log_every=2)
        del config.expect
    return config
