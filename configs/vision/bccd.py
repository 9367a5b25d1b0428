"""Blood cells in photographs of 640 x 480 pixels with COCO JSON: a small DETR from scratch.

    python -m experiments.train --config=configs/vision/bccd.py:folder=bccd --workdir=runs/cells

folder holds `images` and `instances_train.json`, `instances_val.json` and `instances_test.json`: 205, 87 and 72
photographs with red and white cells and platelets (BCCD, MIT licence). Other data of your own are given likewise, with
--config.data.path, --config.data.validation_path and --config.data.test_path. Not a published result: DETRs need more
photographs, or a start from another run (--from). Needs the extra `detection`. Hardware: 2 CPU cores.
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: folder, tiny."""
    options = argument(arg, folder="bccd", tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "coco", "path": f"{options.folder}/instances_train.json"}
    config.data.update(validation_path=f"{options.folder}/instances_val.json")
    config.data.update(test_path=f"{options.folder}/instances_test.json")
    config.task = {"name": "detection", "size": 320, "scale": 0.7, "crop": 0.5, "max_boxes": 40}
    config.task.augmentation = {"flip": True}
    backbone = {"name": "resnet", "num_classes": 0, "depths": (1, 1, 1, 1), "bottleneck": False, "width": 32}
    config.model = {"name": "detr", "backbone": backbone, "num_queries": 60, "width": 128, "num_heads": 4}
    config.model.update(encoder_layers=3, decoder_layers=3, mlp_width=512)
    config.optimizer = {"name": "adamw", "learning_rate": 3e-4, "weight_decay": 1e-4, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 100}}
    config.training = {"batch_size": 8, "duration": {"epochs": 300}, "log_every": 25}
    config.training.evaluate_every = {"epochs": 10}
    config.checkpoint = {"every": {"epochs": 10}, "best": "validation/ap50", "mode": "max"}
    if options.tiny:
        config.task.size = 32
        config.model.backbone.update(depths=(1, 1), width=8)
        config.model.update(width=16, num_heads=2, encoder_layers=1, decoder_layers=2, mlp_width=32)
        config.training.update(batch_size=4, log_every=2)
        config.training.duration = {"steps": 4}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 2}
        config.schedule.warmup = {"steps": 1}
    return config
