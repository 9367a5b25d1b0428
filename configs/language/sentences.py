"""Sentence vectors: a small BERT brings phrases and their translations together, each batch's others apart.

    python -m experiments.train --config=configs/language/sentences.py --workdir=runs/sentences

The loss of Henderson et al. 2017 (section 4) on generated English-French phrases. No published counterpart. Expected:
test/accuracy 1.00 (of the 64 of a batch, the right translation is the nearest). Hardware: two CPU cores, one minute at
18 steps a second, and as long or longer to compile.

data=stories brings the questions of simulated stories and the sentences that answer them together instead. A question
such as "Where is Mary?" has several right sentences, most of them of other stories than its own, so that the accuracy
within a batch stays low; the recall among all sentences counts each of them (docs/labelled_text.md). Expected:
test/recall_1 1.00, of 1,000 questions.

With --from=FOLDER of an imported encoder it is a fine-tune: take its `model` section, and its vocabulary by
`task.tokenizer={"path": "FOLDER/tokenizer.json"}`.
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: data, language of the phrases' targets, tiny."""
    options = argument(arg, data=("phrases", "stories"), language="fr", tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "phrasebook", "language": options.language}
    if options.data == "stories":
        config.data = {"name": "stories", "pairs": True}
    config.task = {"name": "sentences", "tokenizer": {"kind": "wordpiece", "vocab_size": 1000}, "length": 32}
    config.model = {"name": "bert", "num_layers": 2, "width": 64, "num_heads": 4, "mlp_width": 256, "max_length": 32}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 100}}
    config.training = {"batch_size": 64, "duration": {"steps": 1000}, "evaluate_every": {"steps": 250}}
    config.checkpoint = {"every": {"steps": 250}, "best": "validation/accuracy", "mode": "max"}
    if options.tiny:
        config.data.size = 400 if options.data == "phrases" else 100
        config.task.tokenizer.vocab_size = 200
        config.model.update(num_layers=1, width=16, num_heads=2, mlp_width=32)
        config.training.update(batch_size=8, buckets=2, duration={"steps": 6}, evaluate_every={"steps": 3}, log_every=2)
        config.checkpoint.every = {"steps": 3}
        config.schedule.warmup = {"steps": 2}
    return config
