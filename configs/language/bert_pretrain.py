"""BERT's pre-training (Devlin et al. 2019, section 3.1): masked tokens and next sentences, on text that Python carries.

    python -m experiments.train --config=configs/language/bert_pretrain.py --workdir=runs/bert

small: two layers of width 128 (the "tiny" of Turc et al. 2019) on the help texts and docstrings of the running Python,
without a download, masked tokens alone. Hardware and time: 2 CPU cores, about 12 minutes. Expected: masked accuracy of
24 % on validation and 27 % on the test, where always naming the most frequent token finds 5 % at best.

base, large: the paper's models and its 256 rows of 512 tokens, on a folder of texts (`--config.data.path=FOLDER`; one
document a file, or a line of a .jsonl) with whole words and next sentences. Hardware: 8 GPUs for days; not run here.
"""

from ml_collections import ConfigDict

from research.config import argument
from research.models.bert import SIZES


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: size (small, base, large), tiny."""
    options = argument(arg, size=("small", "base", "large"), tiny=False)
    small, length = options.size == "small", 128 if options.size == "small" else 512
    sizes = {"num_layers": 2, "width": 128, "num_heads": 2, "mlp_width": 512} if small else SIZES[options.size]
    config = ConfigDict({"seed": 0})
    config.data = {"name": "python_docs"} if small else {"name": "text_file", "path": "my_texts"}
    config.task = {
        "name": "masked_language",
        "tokenizer": {"kind": "wordpiece", "vocab_size": 4000 if small else 30522},
        "length": length,
        "whole_words": not small,
        "next_sentence": not small,
    }
    head = "masked" if small else "pretraining"
    config.model = {"name": "bert", **sizes, "max_length": length, "head": head, "dropout": 0.0 if small else 0.1}
    config.model.attention_dropout = config.model.dropout
    config.optimizer = {"name": "adamw", "learning_rate": 2e-3 if small else 1e-4, "weight_decay": 0.01}
    config.optimizer.clip_norm = 1.0
    config.schedule = {"name": "linear", "warmup": {"steps": 200 if small else 10_000}}
    config.training = {
        "batch_size": 32 if small else 256,
        "duration": {"steps": 3000 if small else 1_000_000},
        "evaluate_every": {"steps": 500 if small else 10_000},
        "precision": f"params=float32,compute={'float32' if small else 'bfloat16'}",
    }
    config.checkpoint = {"every": {"steps": 500 if small else 10_000}, "best": "validation/loss"}
    if options.tiny:
        config.task.tokenizer.vocab_size = 300
        config.task.update(length=16, next_sentence=True)
        config.data.held_out = 40
        config.model.update(num_layers=1, width=16, num_heads=2, mlp_width=32, max_length=16, head="pretraining")
        config.training.update(batch_size=8, duration={"steps": 6}, evaluate_every={"steps": 3}, log_every=2)
        config.checkpoint.every = {"steps": 3}
        config.schedule.warmup = {"steps": 2}
    return config
