"""Tags of sentences in two line-aligned files."""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: words, tags (files), tiny."""
    options = argument(arg, words="my_words.txt", tags="my_tags.txt", tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "parallel_text", "train_source": options.words, "train_target": options.tags}
    config.task = {"name": "tagging", "length": 32}
    config.model = {"name": "gpt", "num_layers": 2, "width": 128, "num_heads": 4, "max_length": 32}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3}
    config.training = {"batch_size": 64, "duration": {"epochs": 10}}
    if options.tiny:
        config.model.update(num_layers=1, width=32, num_heads=2)
        config.training.batch_size = 8
        config.training.duration = {"steps": 40}
    return config
