"""Blood cells in photographs of 640 x 480 pixels with COCO JSON: a small DETR from scratch.

    python -m experiments.train --config=configs/vision/bccd.py:folder=bccd --workdir=runs/cells
    python -m experiments.train --config=configs/vision/bccd.py:folder=bccd,scenes=runs/boxes --workdir=runs/cells2

folder holds `images` and `instances_train.json`, `instances_val.json` and `instances_test.json`: 205, 87 and 72
photographs with red and white cells and platelets (BCCD, MIT licence). Other data of your own are given likewise, with
--config.data.path, --config.data.validation_path and --config.data.test_path. Not a published result: DETRs need more
photographs, or the start from a run of `detr_scenes` that scenes=FOLDER makes. Needs the extra `detection`. Hardware: 2
CPU cores.
"""

from ml_collections import ConfigDict

from configs.vision import detr_scenes
from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: folder, scenes (the folder of a run of detr_scenes, to start from), tiny."""
    options = argument(arg, folder="bccd", scenes="", tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "coco", "path": f"{options.folder}/instances_train.json"}
    config.data.update(validation_path=f"{options.folder}/instances_val.json")
    config.data.update(test_path=f"{options.folder}/instances_test.json")
    config.task = {"name": "detection", "size": 320, "scale": 0.7, "crop": 0.5, "max_boxes": 40}
    config.task.augmentation = {"flip": True}
    config.model = detr_scenes.get_config("tiny" if options.tiny else "").model
    config.model.num_queries = 60
    if options.scenes:
        config.transfer = {"source": options.scenes, "new": (r"^head/", r"^query_embedding")}
    config.optimizer = {"name": "adamw", "learning_rate": 3e-4, "weight_decay": 1e-4, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 100}}
    config.training = {"batch_size": 8, "duration": {"steps": 1500}, "log_every": 25}
    config.training.evaluate_every = {"steps": 250}
    config.checkpoint = {"every": {"steps": 250}, "best": "validation/ap50", "mode": "max"}
    if options.tiny:
        config.task.size = 32
        config.training.update(batch_size=4, log_every=2)
        config.training.duration = {"steps": 4}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 2}
        config.schedule.warmup = {"steps": 1}
    return config
