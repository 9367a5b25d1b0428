"""Cell membranes in electron-microscopy slices of 512 x 512 pixels (ISBI 2012): a U-Net and a Segmenter from scratch.

    python -m experiments.train --config=configs/vision/membrane.py:folder=membrane --workdir=runs/membrane
    python -m experiments.train --config=configs/vision/membrane.py:folder=membrane,model=segmenter --workdir=runs/vit

folder holds the 30 training slices of the challenge as images/N.png and labels/N.png, where 0 is membrane. The last six
are the test, which the challenge's own test set is not: not a published result. Answers are means over windows that
overlap by half, test/dice/membrane is the Dice coefficient over all pixels of the six.

Hardware: 2 CPU cores.
"""

from ml_collections import ConfigDict

from research.config import argument

MODELS = {
    "unet": {"name": "unet", "width": 16, "depth": 4},
    "segmenter": {
        "name": "segmenter",
        "encoder": {
            "name": "vit",
            "num_classes": 0,
            "patch_size": 8,
            "width": 96,
            "num_layers": 6,
            "num_heads": 3,
            "mlp_width": 384,
            "pool": "mean",
            "positions": "sincos2d",
        },
        "decoder": "linear",  # the other one needs three classes
    },
}


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: folder (with images and labels), model (unet, segmenter), tiny."""
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
        if options.model == "unet":
            config.model.update(width=4, depth=2)
        else:
            config.model.encoder.update(patch_size=4, width=16, num_layers=1, num_heads=2, mlp_width=32)
        config.training.update(batch_size=4, log_every=2)
        config.training.duration = {"steps": 4}
        config.checkpoint.every = {"steps": 2}
        config.schedule.warmup = {"steps": 1}
    return config
