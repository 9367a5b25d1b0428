"""GPT-2 (Radford et al. 2019, table 2) from scratch on a folder of documents such as FineWeb (Penedo et al. 2024).

    python -m experiments.train --config=configs/language/gpt2.py:folder=fineweb/train,validation=fineweb/val.jsonl \
        --workdir=runs/gpt2

folder: files of documents, .jsonl or .parquet with a column "text"; without validation, a thousandth of it is held out.
tokenizer: a `tokenizer.json` with an end marker; without, BPE of GPT-2's size is trained on the folder. The recipe is
that of llm.c: half a million tokens a batch, 18,865 steps for 10 billion tokens. Texts that share a window see each
other as there; `--config.task.separate=true` keeps them apart.

style=llama has RMSNorm, gated feed-forward networks, rotary positions and no biases (Touvron et al. 2023), with at most
a third of the heads for keys and values.

Hardware: 8 GPUs, an hour and a half (124 million parameters); batches are cut by training.accumulate. Expected by
published runs, not run here: 3.28 nats a token of GPT-2's own vocabulary on FineWeb's first validation shard.
"""

from ml_collections import ConfigDict

from research.config import argument
from research.models.gpt import SIZES


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: folder, validation (a file or folder), tokenizer (a file), size (SIZES), style (gpt2, llama), tiny."""
    options = argument(
        arg, folder="fineweb", validation="", tokenizer="", size=tuple(SIZES), style=("gpt2", "llama"), tiny=False
    )
    sizes = SIZES[options.size]
    config = ConfigDict({"seed": 0})
    held_out = {"validation_path": options.validation} if options.validation else {"validation_fraction": 0.001}
    config.data = {"name": "text_file", "path": options.folder, **held_out}
    tokenizer = {"path": options.tokenizer} if options.tokenizer else {"kind": "bpe", "vocab_size": 50_257}
    config.task = {"name": "language_modeling", "tokenizer": tokenizer, "length": 1024}
    config.model = {"name": "gpt", **sizes, "max_length": 1024}
    if options.style == "llama":
        config.model.update(norm_kind="rms", activation="swiglu", positions="rotary", use_bias=False)
        heads = sizes["num_heads"]
        config.model.num_kv_heads = max(count for count in range(1, heads // 3 + 1) if heads % count == 0)
        config.model.mlp_width = 8 * sizes["width"] // 3
    config.optimizer = {"name": "adamw", "learning_rate": 6e-4, "b2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 700}}
    config.training = {
        "batch_size": 512,
        "accumulate": 8,
        "duration": {"steps": 18_865},
        "evaluate_every": {"steps": 250},
        "log_every": 10,
        "precision": "params=float32,compute=bfloat16",
    }
    config.checkpoint = {"every": {"steps": 1000}}
    if options.tiny:
        config.data.update({} if options.validation else {"validation_fraction": 0.1})
        config.task.length = config.model.max_length = 16
        config.model.update(num_layers=1, width=16, num_heads=2)
        config.model.update({"num_kv_heads": 1, "mlp_width": 32} if options.style == "llama" else {})
        if not options.tokenizer:
            config.task.tokenizer.vocab_size = 300
        config.training = {"batch_size": 8, "duration": {"steps": 6}, "evaluate_every": {"steps": 3}, "log_every": 2}
        config.checkpoint.every = {"steps": 3}
        config.schedule.warmup = {"steps": 2}
    return config
