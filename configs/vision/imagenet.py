"""ImageNet-1k from scratch by three published recipes, 224 x 224 pixels, batch 1,024.

    python -m experiments.train --config=configs/vision/imagenet.py:folder=imagenet --workdir=runs/imagenet

folder holds train/ and val/, each with a sub-folder per class. Published top-1 on val, none of them run here:

    size=deit_s  79.8 %, 300 epochs: DeiT-S without a teacher (Touvron et al. 2021)
    size=vit_s   76.5 %, 90 epochs: ViT-S/16 with sines and the patches' mean (Beyer et al. 2022, big_vision)
    size=swin_t  81.3 %, 300 epochs: Swin-T (Liu et al. 2021, table 1 and appendix A2.1)

Where this differs: shares and boxes of mixtures are drawn for every image (theirs: one for a batch), and pixels enter
as (pixel / 255 - 0.5) / 0.5. A teacher is added as in configs/vision/distill.py.

Hardware: 8 GPUs or a TPU v3-8, on which vit_s takes 7 hours by its authors' account.
"""

from ml_collections import ConfigDict

from research.config import argument

DEIT = {"name": "vit", "patch_size": 16, "width": 384, "num_layers": 12, "num_heads": 6, "mlp_width": 1536}
SWIN = {"name": "swin", "width": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: size (deit_s, vit_s, swin_t), folder (with train and val), tiny."""
    options = argument(arg, size=("deit_s", "vit_s", "swin_t"), folder="imagenet", tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "image_folder", "path": f"{options.folder}/train"}
    config.data.validation_path = f"{options.folder}/val"
    config.task = {"name": "classification", "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0}
    config.task.photo = {"size": 224, "policy": "randaugment", "erasing": 0.25, "interpolation": "bicubic"}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05}
    config.schedule = {"name": "cosine", "warmup": {"epochs": 20}, "final": 0.01}
    config.training = {"batch_size": 1024, "duration": {"epochs": 300}, "evaluate_every": {"epochs": 10}, "workers": 16}
    config.training.precision = "params=float32,compute=bfloat16"
    config.checkpoint = {"every": {"epochs": 10}}
    if options.size == "swin_t":
        config.model = {**SWIN, "stochastic_depth": 0.2}
        config.optimizer.clip_norm = 5.0
    elif options.size == "deit_s":
        config.model = {**DEIT, "stochastic_depth": 0.1}
        config.training.repeats = 3
        config.schedule.warmup = {"epochs": 5}
    else:
        config.model = {**DEIT, "pool": "mean", "positions": "sincos2d"}
        config.task.update(label_smoothing=0.0, mixup=0.2, cutmix=0.0)
        policy = {"policy": "randaugment", "magnitude": 10, "magnitude_std": 0.0}
        config.task.photo = {"size": 224, "scale": (0.05, 1.0), **policy}
        config.optimizer.update(weight_decay=0.1, clip_norm=1.0)  # theirs is 1e-4, not times the learning rate
        config.schedule = {"name": "cosine", "warmup": {"steps": 10000}}
        config.training.duration = {"epochs": 90}
    if options.tiny:
        config.task.photo["size"] = 32
        if options.size == "swin_t":
            config.model.update(width=16, depths=(1, 1), num_heads=(2, 2), window=4)
        else:
            config.model.update(num_layers=1, width=16, num_heads=2, mlp_width=32)
        config.training.update(batch_size=8, log_every=2, workers=0)
        config.training.duration = {"steps": 6}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 3}
        config.schedule.warmup = {"steps": 2}
    return config
