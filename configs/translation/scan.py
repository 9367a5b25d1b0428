"""SCAN: commands such as "jump twice" to action sequences (Lake & Baroni 2018).

    python -m experiments.train --config=configs/translation/scan.py:split=simple --workdir=runs/scan_simple

Splits: simple (published exact match 99.8 % for recurrent models), length (13.8-20.8 %), addprim_jump (about 1 %),
addprim_turn_left (about 90 %). model=rnn is an LSTM with attention in place of the Transformer. Hardware: 2 CPU cores,
4 to 44 minutes by split and model. Expected on simple: test/exact_match 0.995.

split=length26 is the length split re-cut at 26 actions, with relative positions ("The Devil is in the Detail", Csordas
et al. 2021, and its repository's sweep scan_trafo_length_cutoff). Published: 100 %, that of a Universal Transformer,
whose layers share their weights; for layers with weights of their own, as here, 72 % is recalled. Recipe: 3+3 layers,
width 128, 8 heads, dropout 0.5, Adam 1e-3 without decay, clipping at 5, batch 256, 50,000 steps. Where this differs:
relative positions are those of Shaw et al. 2018, theirs those of Dai et al. 2019. Hardware: 2 CPU cores, hours; not
run yet.
"""

from ml_collections import ConfigDict

from research.config import argument

SPLITS = ("simple", "length", "length26", "addprim_jump", "addprim_turn_left")


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: split, model (transformer, rnn), tiny."""
    options = argument(arg, split=SPLITS, model=("transformer", "rnn"), tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "scan", "split": options.split}
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
    if options.model == "rnn":
        config.model = ConfigDict({"name": "rnn", "num_layers": 1, "width": 128, "dropout": 0.1})
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "b2": 0.98, "weight_decay": 0.01, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 200}}
    config.training = {
        "batch_size": 128,
        "duration": {"steps": 4000},
        "evaluate_every": {"steps": 500},
        "log_every": 100,
    }
    config.checkpoint = {"every": {"steps": 500}}
    if options.split == "simple":
        config.expect = {"metric": "test/exact_match", "value": 0.998, "tolerance": 0.003}
    if options.split == "length26":
        config.model.update(num_layers=3, dropout=0.5, positions="shaw")
        config.optimizer = {"name": "adam", "learning_rate": 1e-3, "clip_norm": 5.0}
        config.schedule = {"name": "constant"}
        config.training.update(batch_size=256, duration={"steps": 50_000}, evaluate_every={"steps": 1000})
        config.checkpoint.every = {"steps": 1000}
        config.expect = {"metric": "test/exact_match", "value": 1.0, "tolerance": 0.01}
    if options.tiny:
        config.data.size = 100
        config.model.update(num_layers=1, width=16)
        if options.model == "transformer":
            config.model.update(num_heads=2, mlp_width=32)
        config.training.update(batch_size=8, buckets=1, duration={"steps": 6}, evaluate_every={"steps": 3}, log_every=2)
        config.checkpoint.every = {"steps": 3}
    return config
