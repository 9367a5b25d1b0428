"""Images of any size and aspect ratio, packed as sequences of patches: NaViT (Dehghani et al. 2023).

    python -m experiments.train --config=configs/vision/packed.py --workdir=runs/packed
    python -m experiments.train --config=configs/vision/packed.py:data=folder,folder=photos --workdir=runs/photos

data=digits: scikit-learn's scans, whose random crops in training are of many shapes; 4 of them share a row.
data=folder: a ViT-S/16 on an image folder (one sub-folder per class) of photographs as they are, each of at most 256
patches (the area of 256 x 256 pixels), about 4 to 20 of them in a row of 1,024.
Not a published result. Hardware: 2 CPU cores, about 5 minutes, test/accuracy 0.975 with seed 0 (digits); a GPU (folder,
not run here).
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: data (digits, folder), folder (of images, data=folder only), tiny."""
    options = argument(arg, data=("digits", "folder"), folder="images", tiny=False)
    config = ConfigDict({"seed": 0})
    config.model = {"name": "vit", "pool": "mean", "positions": "sincos2d"}
    config.optimizer = {"name": "adamw", "weight_decay": 0.05, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"epochs": 5}}
    if options.data == "folder":
        config.data = {"name": "image_folder", "path": options.folder}
        config.task = {"name": "packed_classification", "patch_size": 16, "max_tokens": 256, "row_tokens": 1024}
        config.task.update(images_per_row=20, crop=0.5, label_smoothing=0.1, augmentation={"flip": True})
        config.model.update(width=384, num_layers=12, num_heads=6, mlp_width=1536)
        config.optimizer.learning_rate = 1e-3
        config.training = {"batch_size": 64, "duration": {"epochs": 90}, "evaluate_every": {"epochs": 10}}
        config.training.precision = "params=float32,compute=bfloat16"
        config.checkpoint = {"every": {"epochs": 10}}
    else:
        config.data = {"name": "digits"}
        config.task = {"name": "packed_classification", "patch_size": 2, "max_tokens": 16, "row_tokens": 64}
        config.task.update(images_per_row=4, crop=0.75, label_smoothing=0.1)
        config.task.augmentation = {"rotate": 15.0, "shift": 0.1, "zoom": 0.15, "shear": 10.0}
        config.model.update(width=64, num_layers=4, num_heads=4, mlp_width=128)
        config.optimizer.learning_rate = 2e-3
        config.training = {"batch_size": 32, "duration": {"epochs": 400}, "log_every": 20, "ema": 0.995}
        config.training.evaluate_every = {"epochs": 40}
        config.checkpoint = {"every": {"epochs": 40}}
    if options.tiny:
        config.model.update(num_layers=1, width=16, num_heads=2, mlp_width=32)
        config.training.update(batch_size=8, log_every=2)
        config.training.duration = {"steps": 6}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 3}
        config.schedule.warmup = {"steps": 2}
    return config
