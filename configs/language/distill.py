"""A BERT of two layers that learns from a larger one which text messages are spam (Sanh et al. 2019; Jiao et al. 2020).

    python -m experiments.train --config=configs/language/sms_spam.py:file=sms.tsv,weights=FOLDER --workdir=runs/sms
    python -m experiments.train --config=configs/language/distill.py:file=sms.tsv,teacher=runs/sms --workdir=runs/small

It has the teacher's vocabulary and learns its probabilities, and with `hidden` the states of its layers through a
learned map. Without teacher, the same training from the labels alone, to compare with. Not a published result.
Hardware and time: 2 CPU cores, minutes.
"""

from ml_collections import ConfigDict

from configs.language.sms_spam import get_config as spam
from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: file (the collection's), teacher (a run of sms_spam.py), hidden (weight of the states), tiny."""
    options = argument(arg, file="sms.tsv", teacher="", hidden=1.0, tiny=False)
    config = spam(f"file={options.file}" + ",tiny" * options.tiny)
    if options.teacher:
        config.task.tokenizer = {"path": f"{options.teacher}/tokenizer.json"}
        config.distillation = {"teacher": options.teacher, "weight": 0.5, "temperature": 2.0, "hidden": options.hidden}
    return config
