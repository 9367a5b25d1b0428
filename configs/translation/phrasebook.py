"""English phrases to any CLDR language: dates, durations, quantities, prices, territories and languages.

The original encoder-decoder Transformer (Vaswani et al. 2017) on data that Babel generates, so that it needs no
download. Not a published result: the project's own demonstration, measured on phrases absent from training.

    python -m experiments.train --config=configs/translation/phrasebook.py --workdir=runs/demo
    python -m experiments.train --config=configs/translation/phrasebook.py:language=ja --workdir=runs/phrasebook_ja

Hardware: 2 CPU cores, about 2 minutes. Expected: test/exact_match 0.97 or more, test/bleu 98 or more.
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: language (any CLDR code), tiny."""
    options = argument(arg, language="fr", tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "phrasebook", "language": options.language}
    config.task = {"name": "translation", "tokenizer": {"kind": "word"}, "max_length": 32, "label_smoothing": 0.1}
    config.model = {
        "name": "seq2seq",
        "num_layers": 2,
        "width": 128,
        "num_heads": 4,
        "mlp_width": 512,
        "dropout": 0.0,
        "norm": "pre",
    }
    config.optimizer = {"name": "adamw", "learning_rate": 3e-3, "b2": 0.98, "weight_decay": 0.01, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 100}}
    config.training = {
        "batch_size": 64,
        "duration": {"steps": 2000},
        "evaluate_every": {"steps": 250},
        "log_every": 50,
    }
    config.checkpoint = {"every": {"steps": 250}}
    config.expect = {"metric": "test/exact_match", "value": 0.985, "tolerance": 0.015}
    if options.tiny:
        config.data.size = 400
        config.model.update(num_layers=1, width=16, num_heads=2, mlp_width=32)
        config.training.update(batch_size=8, buckets=2, duration={"steps": 6}, evaluate_every={"steps": 3}, log_every=2)
        config.checkpoint.every = {"steps": 3}
        del config.expect
    return config
