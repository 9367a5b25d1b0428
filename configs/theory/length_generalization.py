"""Which position encodings let a Transformer copy, reverse or add longer sequences than it has learnt from.

    python -m experiments.train --config=configs/theory/length_generalization.py:problem=reverse,positions=rotary \
        --workdir=runs/reverse

Trained on 1 to 20 digits, tested on 21 to 40: validation/exact_match is of the trained lengths, test/exact_match of the
longer ones. All five encodings, three seeds each, are one sweep, whose slices.png is the picture:

    python -m experiments.sweep --config=configs/theory/length_generalization.py:problem=copy --workdir=runs/lengths \
        --seeds=3 --objective=test/exact_match

"relative" is Shaw et al. 2018, "none" has no positions at all, for which Kazemnejad et al. 2023 found a decoder to do
well; here is an encoder beside it, which then reads its source as a set. Hardware and time: 2 CPU cores, about a minute
a run; docs/theory.md has the scores of all fifteen.
"""

from ml_collections import ConfigDict

from research.config import argument
from research.search_space import Space, choice

POSITIONS = {"sinusoidal": "sinusoidal", "learned": "learned", "rotary": "rotary", "relative": "shaw", "none": "none"}


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: problem (copy, reverse, addition), positions (of POSITIONS), tiny."""
    options = argument(arg, problem=("copy", "reverse", "addition"), positions=tuple(POSITIONS), tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "algorithmic", "problem": options.problem, "longest": 20, "test_longest": 40}
    # Two numbers of 40 digits, a sign and the end marker.
    config.task = {"name": "translation", "tokenizer": {"kind": "whitespace"}, "max_length": 84, "label_smoothing": 0.0}
    config.task.scores = ("exact_match",)
    config.model = {"name": "seq2seq", "num_layers": 2, "width": 64, "num_heads": 4, "mlp_width": 256, "dropout": 0.0}
    config.model.update(positions=POSITIONS[options.positions], max_length=144)
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "b2": 0.98, "weight_decay": 0.01, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 200}}
    config.training = {"batch_size": 64, "duration": {"steps": 2000}, "evaluate_every": {"steps": 1000}}
    config.checkpoint = {"every": {"steps": 1000}}
    if options.tiny:
        config.data.update(longest=4, test_longest=6, size=200)
        config.task.max_length, config.model.max_length = 16, 80
        config.model.update(num_layers=1, width=16, num_heads=2, mlp_width=32)
        config.training.update(batch_size=8, buckets=1, duration={"steps": 6}, evaluate_every={"steps": 3}, log_every=2)
        config.checkpoint.every = {"steps": 3}
        config.schedule.warmup = {"steps": 2}
    return config


def sweep() -> Space:
    """All encodings."""
    return {":positions": choice(POSITIONS)}
