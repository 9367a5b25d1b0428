"""CIFAR-10 from a zip or folder of images, with a small Vision Transformer or a residual network.

    python -m experiments.train --config=configs/vision/cifar10.py:folder=cifar10 --workdir=runs/cifar10

folder holds cifar10_train.zip and cifar10_test.zip (class/image files). The recipe of size=full is that of "Vision
Transformer for Small-Size Datasets" (Lee et al. 2021) and its published code: patch 4, 9 layers, width 192, 12 heads,
AutoAugment, random erasing, CutMix or mixup, three copies of an image in a batch, label smoothing 0.1, stochastic depth
0.1, AdamW 1e-3, weight decay 0.05, batch 128, 100 epochs with 10 of warm-up; recalled as 93.58 %. Where this differs:
their code mixes half of the batches and erases up to 40 % of an image, this one mixes all and erases up to a third.
size=cpu is a smaller model, trained for 10 epochs. model=resnet is the convolutional network beside it.

Hardware: size=full needs an accelerator; it has not been run here. size=cpu takes 11 minutes on 2 CPU cores.
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: folder (of the zips), size (full, cpu), model (vit, resnet), tiny."""
    options = argument(arg, folder="cifar10", size=("full", "cpu"), model=("vit", "resnet"), tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {
        "name": "image_folder",
        "path": f"{options.folder}/cifar10_train.zip",
        "test_path": f"{options.folder}/cifar10_test.zip",
        "validation_fraction": 0.02,
    }
    config.task = {
        "name": "classification",
        "label_smoothing": 0.1,
        "mixup": 1.0,
        "cutmix": 1.0,
        "photo": {"size": 32, "crop": "pad", "policy": "autoaugment_cifar", "erasing": 0.25},
    }
    config.model = {
        "name": "vit",
        "patch_size": 4,
        "width": 192,
        "num_layers": 9,
        "num_heads": 12,
        "mlp_width": 384,
        "stochastic_depth": 0.1,
    }
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"epochs": 10}}
    config.training = {"batch_size": 128, "duration": {"epochs": 100}, "evaluate_every": {"epochs": 5}, "repeats": 3}
    config.checkpoint = {"every": {"epochs": 5}}
    if options.size == "cpu":
        config.task.mixup = config.task.cutmix = 0.0
        config.task.photo.update(policy="none", erasing=0.0)
        config.training.repeats = 1
        config.model.update(width=96, num_layers=4, num_heads=4, mlp_width=192, stochastic_depth=0.0, pool="mean")
        config.schedule.warmup = {"steps": 200}
        config.training.update(log_every=20)
        config.training.duration = {"steps": 4000}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 500}
    if options.model == "resnet":
        wide = {"depths": (2, 2, 2), "width": 64} if options.size == "full" else {"depths": (1, 1, 1), "width": 16}
        config.model = ConfigDict({"name": "resnet", "bottleneck": False, "small_images": True, **wide})
    if options.tiny:
        if options.model == "vit":
            config.model.update(num_layers=1, width=16, num_heads=2, mlp_width=32)
        config.training.update(batch_size=8, log_every=2)
        config.training.duration = {"steps": 6}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 3}
        config.schedule.warmup = {"steps": 2}
    return config
