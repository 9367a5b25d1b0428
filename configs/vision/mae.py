"""Pre-training without labels by painting hidden patches (He et al. 2022), then a probe on the frozen features.

    python -m experiments.train --config=configs/vision/mae.py --workdir=runs/mae
    python -m experiments.probe --workdir=runs/mae
    python -m experiments.train --config=configs/vision/finetune.py:source=runs/mae --workdir=runs/mae_finetuned \
        --config.model.pool=cls --config.model.positions=sincos2d --config.transfer.drop='["^decoder", "^mask_token"]'

data=digits is the small scale of configs/vision/digits.py; data=imagenet the paper's: ViT-B/16 with a decoder of 8
blocks of width 512 (111.66 M parameters), batch 4,096, AdamW (0.9, 0.95), learning rate 2.4e-3 (1.5e-4 for each 256
images), weight decay 0.05, 800 epochs with 40 of warm-up, normalised pixels as targets. The paper's linear probe after
that is 68.0 % and fine-tuning 83.6 % top-1 (not run here).

Hardware and time: 2 CPU cores, about 2 minutes (digits); days on 8 GPUs (imagenet).
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: data (digits, imagenet), folder (ImageNet's train and val folders, imagenet only), tiny."""
    options = argument(arg, data=("digits", "imagenet"), folder="imagenet", tiny=False)
    config = ConfigDict({"seed": 0})
    config.optimizer = {"name": "adamw", "weight_decay": 0.05, "b2": 0.95}
    config.schedule = {"name": "cosine"}
    if options.data == "imagenet":
        config.data = {"name": "image_folder", "path": f"{options.folder}/train", "size": 224}
        config.data.validation_path = f"{options.folder}/val"
        config.task = {"name": "masked_images", "patch_size": 16, "augmentation": {"flip": True}}
        config.model = {"name": "mae"}
        config.optimizer.learning_rate = 2.4e-3
        config.schedule.warmup = {"epochs": 40}
        config.training = {"batch_size": 4096, "duration": {"epochs": 800}, "evaluate_every": {"epochs": 20}}
        config.training.precision = "params=float32,compute=bfloat16"
        config.checkpoint = {"every": {"epochs": 20}}
        return _tiny(config) if options.tiny else config
    config.data = {"name": "digits"}
    config.task = {
        "name": "masked_images",
        "patch_size": 2,
        "augmentation": {"shift": 0.1, "zoom": 0.15, "shear": 10.0},
    }
    config.model = {"name": "mae", "width": 64, "num_layers": 4, "num_heads": 4, "mlp_width": 128}
    config.model.update(decoder_width=32, decoder_layers=2, decoder_heads=4)
    config.optimizer.learning_rate = 2e-3
    config.schedule.warmup = {"epochs": 5}
    config.training = {"batch_size": 128, "duration": {"epochs": 400}, "log_every": 20, "ema": 0.995}
    config.training.evaluate_every = {"epochs": 80}
    config.checkpoint = {"every": {"epochs": 80}}
    return _tiny(config) if options.tiny else config


def _tiny(config: ConfigDict) -> ConfigDict:
    config.model.update(num_layers=1, width=16, num_heads=2, mlp_width=32)
    config.model.update(decoder_width=16, decoder_layers=1, decoder_heads=2)
    config.training.update(batch_size=8, log_every=2)
    config.training.duration = {"steps": 6}
    config.training.evaluate_every = config.checkpoint.every = {"steps": 3}
    config.schedule.warmup = {"steps": 2}
    return config
