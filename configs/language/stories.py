"""Questions about simulated stories (in the style of bAbI tasks 1 to 3, Weston et al. 2015), answered by a span.

    python -m experiments.train --config=configs/language/stories.py --workdir=runs/stories
    python -m experiments.train --config=configs/language/stories.py:run=runs/bert --workdir=runs/stories_pretrained

run: a run of configs/language/bert_pretrain.py to start from; without, all starts afresh in the same shape. task: how
many sentences an answer needs. Hardware and time: 2 CPU cores, about 5 minutes. Expected of task 1: exact match of 100,
100 and 99.9 with a pre-trained run (seeds 0 to 2), of 61, 41 and 42 without one; of tasks 2 and 3, without one, 24 and
22.
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: task (1, 2, 3), run (a pre-trained BERT's folder), tiny."""
    options = argument(arg, task=1, run="", tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "stories", "task": options.task}
    tokenizer = {"path": f"{options.run}/tokenizer.json"} if options.run else {"kind": "wordpiece", "vocab_size": 200}
    config.task = {
        "name": "question_answering",
        "tokenizer": tokenizer,
        "length": 128,
        "question_length": 16,
        "overlap": 32,
        "dropout": 0.0,
    }
    config.model = {"name": "bert", "num_layers": 2, "width": 128, "num_heads": 2, "mlp_width": 512, "max_length": 128}
    config.model.update(dropout=0.0, attention_dropout=0.0)
    config.optimizer = {"name": "adamw", "learning_rate": 5e-4, "weight_decay": 0.01, "clip_norm": 1.0}
    config.schedule = {"name": "linear", "warmup": {"steps": 200}}
    config.training = {"batch_size": 32, "duration": {"steps": 3000}, "evaluate_every": {"steps": 125}}
    config.checkpoint = {"every": {"steps": 250}, "best": "validation/exact_match", "mode": "max"}
    if options.run:
        config.transfer = {"source": options.run, "new": [r"^head/"], "drop": [r"^(masked|pooler|next_sentence)/"]}
    if options.tiny:
        config.data.size = 100
        config.task.update(length=40, question_length=8, overlap=8)
        config.model.update(num_layers=1, width=16, mlp_width=32, max_length=40)
        config.training.update(batch_size=8, duration={"steps": 6}, evaluate_every={"steps": 3}, log_every=2)
        config.checkpoint.every = {"steps": 3}
        config.schedule.warmup = {"steps": 2}
    return config
