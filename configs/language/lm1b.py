"""The One Billion Word benchmark (Chelba et al. 2013) with the small Transformer of Flax's example.

    python -m experiments.train --config=configs/language/lm1b.py --workdir=runs/lm1b

6 layers of width 512, a vocabulary of 30,000 pieces, sentences packed into rows of 128 tokens that do not see each
other, batches of 256 rows for each of 8 devices, and 500,000 steps in that example. Its published loss is 3.127 nats a
token of its own SentencePiece vocabulary; `bits_per_byte` compares runs of other vocabularies.

Data: TFDS `lm1b`, prepared once as ArrayRecord (the error message says with which command). Hardware: 8 GPUs for a day;
not run here.
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: data_dir (where TFDS prepared it), tiny."""
    options = argument(arg, data_dir="", tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "tfds", "dataset": "lm1b", "keys": {"text": "text"}, "validation": "test", "test": None}
    if options.data_dir:
        config.data.data_dir = options.data_dir
    tokenizer = {"kind": "unigram", "vocab_size": 30_000}
    config.task = {"name": "language_modeling", "tokenizer": tokenizer, "length": 128, "separate": True}
    config.model = {"name": "gpt", "num_layers": 6, "width": 512, "num_heads": 8, "max_length": 128, "dropout": 0.1}
    config.optimizer = {"name": "adamw", "learning_rate": 1.6e-3, "b2": 0.98, "weight_decay": 0.1}
    config.schedule = {"name": "inverse_sqrt", "warmup": {"steps": 1000}}
    config.training = {
        "batch_size": 2048,
        "duration": {"steps": 500_000},
        "evaluate_every": {"steps": 1000},
        "log_every": 100,
        "precision": "params=float32,compute=bfloat16",
    }
    config.checkpoint = {"every": {"steps": 10_000}, "best": "validation/loss"}
    config.expect = {"metric": "validation/loss", "value": 3.127, "tolerance": 0.05}
    if options.tiny:
        config.task.length = config.model.max_length = 16
        config.task.tokenizer.vocab_size = 300
        config.model.update(num_layers=1, width=16, num_heads=2)
        config.training = {"batch_size": 8, "duration": {"steps": 6}, "evaluate_every": {"steps": 3}, "log_every": 2}
        config.checkpoint.every = {"steps": 3}
        config.schedule.warmup = {"steps": 2}
        del config.expect
    return config
