"""DETR-R50 on COCO 2017 (Carion et al. 2020, table 1: AP 42.0 after 500 epochs; 300 epochs here).

    python -m experiments.train --config=configs/vision/detr_coco.py:folder=coco,weights=runs/resnet50 \\
        --workdir=runs/detr

folder holds `annotations/instances_train2017.json`, `annotations/instances_val2017.json` and the folders `train2017`
and `val2017`. weights is a run that `experiments.weights import` has made of a ResNet-50 trained on ImageNet: the
backbone starts with it, its normalisation frozen. Without weights the backbone is random, for tests alone.

As in the paper: width 256, 6 + 6 layers, 100 queries, batches of 16, learning rate 1e-4 and 1e-5 for the backbone, a
tenth after two thirds of the training, losses of every decoder layer.

Unlike the paper: images fit a square of 1024 pixels, in place of sides of 480 to 800 and at most 1333. The
cross-entropy is divided by the number of boxes; its weight makes that the published code's for 7 boxes an image, as
COCO has. Not trained here. Hardware: GPUs, not measured. Needs the extra `detection`.
"""

from ml_collections import ConfigDict

from research.config import argument
from research.models.resnet import fields


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: folder, weights (a run), tiny."""
    options = argument(arg, folder="coco", weights="", tiny=False)
    config = ConfigDict({"seed": 0})
    lists, images = f"{options.folder}/annotations/instances", options.folder
    config.data = {"name": "coco", "path": f"{lists}_train2017.json", "images": f"{images}/train2017"}
    config.data.update(validation_path=f"{lists}_val2017.json", validation_images=f"{images}/val2017")
    config.task = {"name": "detection", "size": 1024, "scale": 0.5, "crop": 0.5, "augmentation": {"flip": True}}
    config.task.update(class_weight=0.44, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
    backbone = {"name": "resnet", "num_classes": 0, **fields("50"), "frozen_norm": True}
    config.model = {"name": "detr", "backbone": backbone}
    if options.weights:
        config.transfer = {"source": options.weights, "into": "backbone", "new": (), "drop": (r"^head/",)}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-4, "clip_norm": 0.1}
    config.optimizer.multipliers = {"^backbone/": 0.1}
    config.schedule = {"name": "drop", "at": 2 / 3}
    config.training = {"batch_size": 16, "duration": {"epochs": 300}, "precision": "params=float32,compute=bfloat16"}
    config.training.evaluate_every = {"epochs": 5}
    config.checkpoint = {"every": {"epochs": 1}, "best": "validation/ap", "mode": "max"}
    if options.tiny:
        config.task.size = 32
        config.model.backbone.update(depths=(1, 1), width=8)
        config.model.update(width=16, num_heads=2, encoder_layers=1, decoder_layers=2, mlp_width=32)
        config.training.update(batch_size=4, log_every=2)
        config.training.duration = {"steps": 4}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 2}
    return config
