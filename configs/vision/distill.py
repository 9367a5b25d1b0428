"""A small Vision Transformer that learns from a residual network, on scikit-learn's digits (no download).

    python -m experiments.train --config=configs/vision/distill.py:model=teacher --workdir=runs/teacher
    python -m experiments.train --config=configs/vision/distill.py:teacher=runs/teacher --workdir=runs/distilled

The student is DeiT's (Touvron et al. 2021, section 3): a class token that learns the labels, a distillation token that
learns the teacher's best class. kind=soft learns all of its probabilities instead (Hinton et al. 2015). Any run with
the same classes may teach; without teacher, the same training from the labels alone, to compare with.

Not a published result. Test accuracy, mean and deviation of 3 seeds of a small student, its teacher at 98.9 %: labels
alone 91.5 % (0.4), kind=hard 92.5 % (1.7), kind=soft 91.3 % (2.2): no difference beyond that of the seeds.
Hardware and time: 2 CPU cores, about a minute a run.
"""

from pathlib import Path

from ml_collections import ConfigDict

from research.config import argument, load

BASE = Path(__file__).with_name("digits.py")


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: model (student, teacher), teacher (a run's folder), kind (hard, soft), tiny."""
    options = argument(arg, model=("student", "teacher"), teacher="", kind=("hard", "soft"), tiny=False)
    config = load(f"{BASE}:tiny" if options.tiny else str(BASE))
    if options.model == "teacher":
        config.model = ConfigDict({"name": "resnet", "depths": (1, 1, 1), "width": 16})
        config.model.update(bottleneck=False, small_images=True)
    else:
        config.model.pool = "cls"
        if not options.tiny:
            config.model.update(width=32, num_layers=2, num_heads=2, mlp_width=64)
        if options.teacher:
            config.model.distillation = True
            config.distillation = {"teacher": options.teacher, "kind": options.kind, "temperature": 3.0}
    if not options.tiny:
        config.training.duration = {"epochs": 100}
        del config.expect
    return config
