"""CLIP's ViT-B/32 from scratch on photographs with captions, such as those of COCO (Lin et al. 2014).

    python -m experiments.train --config=configs/multimodal/clip_coco.py:folder=my_captions --workdir=runs/clip_coco

folder holds captions_train.tsv and captions_val.tsv, whose columns image and caption name the files of images/ and say
what they show; an image with several captions has a line for each. The towers are those of Radford et al. 2021 with a
vocabulary of 16,000, trained on the captions; size=small has smaller ones. A batch of 1,024 is encoded in chunks of
128, for 30 times the 591,753 captions of COCO's training images of 2017. No published counterpart: CLIP's own training
took 400 million pairs. Hardware: meant for one GPU; not run yet.
"""

from ml_collections import ConfigDict

from research.config import argument

SIZES = {
    "B": (768, 12, 12, 512, 12, 8),
    "small": (256, 6, 4, 256, 4, 4),
}
"""Width, layers and heads of the image tower and of the text tower."""


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: size (B, small), folder, tiny."""
    options = argument(arg, size=tuple(SIZES), folder="my_captions", tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "captions", "path": f"{options.folder}/captions_train.tsv"}
    config.data.validation_path = f"{options.folder}/captions_val.tsv"
    config.data.images = f"{options.folder}/images"
    config.task = {"name": "image_text", "tokenizer": {"kind": "bpe", "vocab_size": 16_000}, "length": 77}
    config.task.photo = {"size": 224, "scale": (0.5, 1.0), "flip": False, "interpolation": "bicubic"}
    config.task.mean, config.task.deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    config.task.chunk = 128
    width, layers, heads, text_width, text_layers, text_heads = SIZES[options.size]
    shared = {"activation": "quick_gelu"}
    image = {"name": "vit", "num_classes": 0, "patch_size": 32, "input_norm": True, "norm_epsilon": 1e-5, **shared}
    image |= {"width": width, "num_layers": layers, "num_heads": heads, "mlp_width": 4 * width}
    text = {"name": "gpt", "width": text_width, "num_layers": text_layers, "num_heads": text_heads, **shared}
    config.model = {"name": "two_towers", "image": image, "text": {**text, "max_length": 77}, "width": 512}
    config.optimizer = {"name": "adamw", "learning_rate": 5e-4, "b2": 0.98, "eps": 1e-6, "weight_decay": 0.2}
    config.schedule = {"name": "cosine", "warmup": {"steps": 2000}}
    config.training = {"batch_size": 1024, "duration": {"steps": 17_000}, "evaluate_every": {"steps": 500}}
    config.training.workers = 8
    config.training.precision = "params=float32,compute=bfloat16"
    config.checkpoint = {"every": {"steps": 500}}
    if options.tiny:
        config.task.photo["size"] = 32
        config.task.update(length=24, chunk=4)
        config.task.tokenizer.vocab_size = 300
        config.model.image.update(patch_size=16, width=16, num_layers=1, num_heads=2, mlp_width=32)
        config.model.text.update(width=16, num_layers=1, num_heads=2, max_length=24)
        config.model.width = 8
        config.training.update(batch_size=8, log_every=2, workers=0)
        config.training.duration = {"steps": 4}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 2}
        config.schedule.warmup = {"steps": 1}
    return config
