"""Cell membranes in electron-microscopy slices (ISBI 2012): a U-Net, a Segmenter and a TransUNet from scratch.

    python -m experiments.train --config=configs/vision/membrane.py:folder=membrane --workdir=runs/membrane
    python -m experiments.train --config=configs/vision/membrane.py:folder=membrane,model=segmenter --workdir=runs/vit
    python -m experiments.train --config=configs/vision/membrane.py:folder=membrane,model=transunet --workdir=runs/both

folder holds the 30 training slices of 512 x 512 pixels as images/N.png and labels/N.png, where 0 is membrane. The last
six are the test, which the challenge's own test set is not: not a published result. Answers are means over windows that
overlap by half, test/dice/membrane is the Dice coefficient over all pixels of the six.

Hardware: 2 CPU cores.
"""

from ml_collections import ConfigDict

from research.config import argument

TRANSFORMER = {"name": "vit", "num_classes": 0, "width": 96, "num_heads": 3, "mlp_width": 384, "pool": "mean"}
MODELS = {
    "unet": {"name": "unet", "width": 16, "depth": 4},
    "segmenter": {
        "name": "segmenter",
        "encoder": {**TRANSFORMER, "patch_size": 8, "num_layers": 6, "positions": "sincos2d"},
        "decoder": "linear",  # the other one needs three classes
    },
    "transunet": {
        "name": "transunet",
        "backbone": {
            "name": "resnet",
            "num_classes": 0,
            "depths": (1, 2, 2),
            "bottleneck": False,
            "width": 24,
            "stem_level": True,
        },
        "encoder": {**TRANSFORMER, "patch_size": 1, "num_layers": 4},
        "widths": (96, 64, 32, 24, 16),
    },
}


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: folder (with images and labels), model (unet, segmenter, transunet), tiny."""
    options = argument(arg, folder="membrane", model=tuple(MODELS), tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "image_masks", "path": options.folder, "masks": "labels", "channels": 1, "test": 6}
    config.data.update(classes=("membrane", "cell"), values=(0, 255))
    config.task = {"name": "segmentation", "size": 128, "scale": (0.8, 1.25), "turns": True, "flips": "both"}
    config.model = dict(MODELS[options.model])
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 50}}
    config.training = {"batch_size": 8, "duration": {"steps": 1500}, "log_every": 50}
    config.checkpoint = {"every": {"steps": 250}}
    if options.tiny:
        config.task.size = 16
        shrink(config.model)
        config.training.update(batch_size=4, log_every=2)
        config.training.duration = {"steps": 4}
        config.checkpoint.every = {"steps": 2}
        config.schedule.warmup = {"steps": 1}
    return config


def shrink(model: ConfigDict) -> None:
    """Makes one of `MODELS` so small that it is trained within a minute."""
    if model.name == "unet":
        model.update(width=4, depth=2)
        return
    model.encoder.update(width=16, num_layers=1, num_heads=2, mlp_width=32)
    if model.name == "segmenter":
        model.encoder.update(patch_size=4)
    else:
        model.backbone.update(depths=(1,), width=4)
        model.update(widths=(8, 4, 4))
