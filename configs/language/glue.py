"""GLUE (Wang et al. 2019) with a published BERT: sentences and pairs, classes and a number, as TFDS prepares them.

    python -m experiments.train --config=configs/language/glue.py:task=mrpc,weights=FOLDER --workdir=runs/mrpc

weights: the folder of bert-base-cased, whose numbers on the dev sets are published with transformers' examples (batch
32, 2e-5, 3 epochs, length 128; MRPC 5 epochs): CoLA Matthews 56.53, SST-2 accuracy 92.32, MRPC F1/accuracy 88.85/84.07,
STS-B Pearson/Spearman 88.64/88.48, QQP accuracy/F1 90.71/87.49, MNLI 83.91, QNLI 90.66, RTE 65.70. Hardware and time:
one GPU, minutes (MRPC, RTE, CoLA, STS-B) to hours (MNLI, QQP); not run here.
"""

from ml_collections import ConfigDict

from configs.language.fine_tune import base
from research.config import argument

TASKS = {
    "mrpc": ("sentence1", "sentence2", "equivalent"),
    "cola": ("sentence", None, None),
    "sst2": ("sentence", None, None),
    "stsb": ("sentence1", "sentence2", None),
    "qqp": ("question1", "question2", "duplicate"),
    "mnli": ("premise", "hypothesis", None),
    "qnli": ("question", "sentence", None),
    "rte": ("sentence1", "sentence2", None),
}
"""The features of each task's texts, and the class that F1 is of where that is a score of the task."""


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: task, data_dir (where TFDS prepared it), weights (a published BERT's folder), size, tiny."""
    options = argument(arg, task=tuple(TASKS), data_dir="", weights="", size=("base", "large", "minilm"), tiny=False)
    first, second, positive = TASKS[options.task]
    config = base(options.weights, options.size, options.tiny)
    keys = {"source": first, "label": "label"} | ({"second": second} if second else {})
    config.data = {"name": "tfds", "dataset": f"glue/{options.task}", "keys": keys, "test": None}
    if options.task == "mnli":
        config.data.validation = "validation_matched"
    if options.data_dir:
        config.data.data_dir = options.data_dir
    config.task.update(name="text_classification", kind="number" if options.task == "stsb" else "classes")
    if positive:
        config.task.positive = positive
    if options.weights and not options.tiny:
        config.model.head, config.task.pool = "pooler", "pooler"
        config.optimizer.learning_rate = 2e-5
        config.training.duration.epochs = 5 if options.task == "mrpc" else 3
    return config
