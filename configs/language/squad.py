"""SQuAD 1.1 and 2.0 with a published BERT (Devlin et al. 2019, sections 4.2 and 4.3).

    python -m experiments.train --config=configs/language/squad.py:folder=squad,weights=FOLDER --workdir=runs/squad

folder: with train-v1.1.json and dev-v1.1.json (or v2.0 with version=2.0). weights: the folder of bert-base-uncased.
Hardware and time: one GPU, half an hour; not run here. Expected: F1 88.5 and exact match 81.2 on the dev file of 1.1
(batch 12, learning rate 3e-5, 2 epochs, as published with transformers' examples).
"""

from ml_collections import ConfigDict

from configs.language.fine_tune import base
from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: folder, version (1.1, 2.0), weights (a published BERT's folder), size (base, large, minilm), tiny."""
    options = argument(
        arg, folder="squad", version=(1.1, 2.0), weights="", size=("base", "large", "minilm"), tiny=False
    )
    config = base(options.weights, options.size, options.tiny, length=384)
    train, dev = (f"{options.folder}/{split}-v{options.version}.json" for split in ("train", "dev"))
    config.data = {"name": "squad", "path": train, "validation_path": dev}
    config.task.update(name="question_answering", no_answer=options.version == 2.0)
    config.checkpoint.best, config.checkpoint.mode = "validation/f1", "max"
    if options.tiny:
        config.task.update(question_length=16, overlap=16)
        return config
    config.optimizer.learning_rate = 3e-5
    config.training.update(batch_size=12, precision="params=float32,compute=bfloat16")
    config.training.duration.epochs = 2
    return config
