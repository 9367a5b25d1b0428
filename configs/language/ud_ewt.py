"""Parts of speech of the English Web Treebank (Universal Dependencies), trained on its dev file.

    python -m experiments.train --config=configs/language/ud_ewt.py:folder=ud_ewt,weights=FOLDER --workdir=runs/ud_ewt

folder: with en_ewt-ud-dev.conllu, of whose 2,001 sentences every tenth validates, and en_ewt-ud-test.conllu (2,077).
weights: the folder of all-MiniLM-L6-v2; without, a small encoder learns from scratch. Hardware and time: 2 CPU cores,
about 10 minutes with the weights. Expected: accuracy of 95.2 % on the test (seed 0), where the most frequent tag of
each word gives 81.5 %.
"""

from ml_collections import ConfigDict

from configs.language.fine_tune import base
from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: folder, weights (the folder of a published encoder), tiny."""
    options = argument(arg, folder="ud_ewt", weights="", tiny=False)
    config = base(options.weights, "minilm", options.tiny)
    files = {name: f"{options.folder}/en_ewt-ud-{split}.conllu" for name, split in
             {"path": "dev", "test_path": "test"}.items()}  # fmt: skip
    config.data = {"name": "conll", **files, "folds": 10}
    config.task.name = "token_classification"
    if not options.tiny:
        config.optimizer.learning_rate = 2e-4 if options.weights else 1e-3
        config.training.duration.epochs = 5
    return config
