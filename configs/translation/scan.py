"""SCAN: commands such as "jump twice" to action sequences (Lake & Baroni 2018).

    python -m experiments.train --config=configs/translation/scan.py:split=simple --workdir=runs/scan_simple

Splits: simple (published exact match 99.8 % for recurrent models), length (13.8-20.8 %), addprim_jump (about 1 %),
addprim_turn_left (about 90 %). Hardware: 2 CPU cores, under 20 minutes. Expected on simple: test/exact_match 0.995.
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: split, tiny."""
    arg = argument(arg, split=("simple", "length", "addprim_jump", "addprim_turn_left"), tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "scan", "split": arg.split}
    # The longest action sequence has 48 actions; the end marker makes 49.
    config.task = {"name": "translation", "tokenizer": {"kind": "whitespace"}, "max_length": 49, "label_smoothing": 0.0}
    config.model = {
        "name": "seq2seq",
        "num_layers": 2,
        "width": 128,
        "num_heads": 8,
        "mlp_width": 256,
        "dropout": 0.1,
    }
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "b2": 0.98, "weight_decay": 0.01, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 200}}
    config.training = {
        "batch_size": 128,
        "duration": {"steps": 4000},
        "evaluate_every": {"steps": 500},
        "log_every": 100,
    }
    config.checkpoint = {"every": {"steps": 500}}
    if arg.split == "simple":
        config.expect = {"metric": "test/exact_match", "value": 0.998, "tolerance": 0.003}
    if arg.tiny:
        config.data.size = 100
        config.model.update(num_layers=1, width=16, num_heads=2, mlp_width=32)
        config.training.update(batch_size=8, duration={"steps": 6}, evaluate_every={"steps": 3}, log_every=2)
        config.checkpoint.every = {"steps": 3}
    return config
