"""Fine-tuning a published encoder on a table of labelled texts of one's own: CSV, TSV or JSON lines.

    python -m experiments.train --config=configs/language/fine_tune.py:file=my.csv,weights=FOLDER --workdir=runs/mine

The base of the configs beside it, which name their data, columns and expected scores. weights: a published BERT's
folder (model.safetensors with vocab.txt or tokenizer.json) of this size, or its name on the Hugging Face hub, such as
hf:google-bert/bert-base-uncased with size=base; without, a small encoder learns from scratch.
Hardware and time: minutes on 2 CPU cores for a few thousand short texts and the size "minilm".
"""

from pathlib import Path

from ml_collections import ConfigDict

from research.config import argument
from research.hub import PREFIX
from research.models.bert import SIZES

SMALL = {"num_layers": 2, "width": 128, "num_heads": 2, "mlp_width": 512}


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: file (the table), weights (a published BERT's folder), size (minilm, base, large), tiny."""
    options = argument(arg, file="my_texts.csv", weights="", size=("minilm", "base", "large"), tiny=False)
    config = base(options.weights, options.size, options.tiny)
    config.data = {"name": "table", "path": options.file, "folds": 10}
    config.task.name = "text_classification"
    return config


def base(weights: str, size: str, tiny: bool, length: int = 128) -> ConfigDict:
    """All but the data and the name of the task: BERT's recipe (appendix A.3), for the weights or a small encoder."""
    config = ConfigDict({"seed": 0})
    small = tiny or not weights
    config.task = {"tokenizer": tokenizer(weights, 300 if tiny else 4000), "length": 64 if tiny else length}
    config.model = {"name": "bert", **(SMALL if small else SIZES[size]), "max_length": length if small else 512}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3 if small else 5e-5, "weight_decay": 0.01}
    config.optimizer.clip_norm = 1.0
    config.schedule = {"name": "linear", "warmup": {"steps": 50}}
    config.training = {"batch_size": 32, "duration": {"epochs": 3}, "evaluate_every": {"epochs": 1}, "buckets": 4}
    config.checkpoint = {"every": {"epochs": 1}, "best": "validation/loss"}
    if weights and not tiny:
        config.transfer = {"source": weights, "new": [r"^head/"]}
    if tiny:
        config.model.update(num_layers=1, width=16, mlp_width=32, max_length=64)
        config.training = {"batch_size": 8, "duration": {"steps": 6}, "evaluate_every": {"steps": 3}, "log_every": 2}
        config.checkpoint.every = ConfigDict({"steps": 3})
        config.schedule.warmup = {"steps": 2}
    return config


def tokenizer(weights: str, vocab_size: int) -> dict:
    """The vocabulary of a published BERT, or the section that trains one."""
    if not weights:
        return {"kind": "wordpiece", "vocab_size": vocab_size}
    if weights.startswith(PREFIX):
        return {"path": weights}
    whole = Path(weights) / "tokenizer.json"
    return {"path": str(whole if whole.expanduser().exists() else Path(weights) / "vocab.txt")}
