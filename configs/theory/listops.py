"""ListOps (Nangia & Bowman 2018): the value of nested lists of digits, such as [MAX 2 9 [MIN 4 7 ] 0 ].

    python -m experiments.train --config=configs/theory/listops.py --workdir=runs/listops

Expressions of at most 100 tokens from the paper's grammar, drawn here; a small encoder with BERT's layout reads the
value off its first token. The paper's models are recurrent and tree-shaped. The Long Range Arena (Tay et al. 2021) has
expressions of 500 to 2,000 tokens, with depth 10 and arguments 10 in `data`. Hardware and time: 2 CPU cores, 12
minutes. Expected: test accuracy of 65.3 % (seed 0), still rising.
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: tiny."""
    options = argument(arg, tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "listops", "longest": 100}
    config.task = {
        "name": "text_classification",
        "tokenizer": {"kind": "whitespace"},
        "length": 102,
        "class_names": tuple("0123456789"),
        "dropout": 0.0,
    }
    config.model = {"name": "bert", "num_layers": 4, "width": 128, "num_heads": 4, "mlp_width": 512, "max_length": 102}
    config.model.update(dropout=0.0, attention_dropout=0.0)
    config.optimizer = {"name": "adamw", "learning_rate": 5e-4, "weight_decay": 0.01, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 300}}
    config.training = {"batch_size": 128, "duration": {"epochs": 4}, "evaluate_every": {"epochs": 1}}
    config.checkpoint = {"every": {"epochs": 1}, "best": "validation/accuracy", "mode": "max"}
    if options.tiny:
        config.data.update(size=200, longest=20)
        config.task.length = config.model.max_length = 22
        config.model.update(num_layers=1, width=16, num_heads=2, mlp_width=32)
        config.training = {"batch_size": 8, "duration": {"steps": 6}, "evaluate_every": {"steps": 3}, "log_every": 2}
        config.checkpoint.every = ConfigDict({"steps": 3})
        config.schedule.warmup = {"steps": 2}
    return config
