"""Fine-tuning a pre-trained model with a new head, on few labels or many.

    python -m experiments.train --config=configs/vision/rotation.py --workdir=runs/rotation
    python -m experiments.train --config=configs/vision/finetune.py:source=runs/rotation --workdir=runs/finetuned

source: a run's folder or a .safetensors file; without, the same training from scratch, to compare with. labels:
training scans that are used, 126 (a tenth of them) unless given.

Hardware and time: 2 CPU cores, about a minute for 126 labels.
"""

from pathlib import Path

from ml_collections import ConfigDict

from research.config import argument, load

BASE = Path(__file__).with_name("digits.py")


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: source (a run's folder or weight file), labels (training scans), tiny."""
    options = argument(arg, source="", labels=126, tiny=False)
    config = load(f"{BASE}:tiny" if options.tiny else str(BASE))
    config.data.train_size = options.labels
    if options.source:
        config.transfer = {"source": options.source, "new": [r"^head/"]}
    if not options.tiny:
        config.training.batch_size = 42
        config.training.duration = {"steps": 600}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 200}
        config.schedule.warmup = {"steps": 50}
        config.training.ema = 0.98
        del config.expect
    return config
