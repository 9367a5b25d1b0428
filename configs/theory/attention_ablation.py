"""What the parts of the Transformer are worth: rows of table 3 of Vaswani et al. 2017, at Multi30k scale.

    python -m experiments.train --config=configs/theory/attention_ablation.py:row=heads_1,folder=multi30k_bpe \
        --workdir=runs/ablation_heads_1

Each row changes one thing about configs/translation/multi30k.py (4 heads, key size 32, 4+4 layers, width 128,
feed-forward 256, dropout 0.3, label smoothing 0.1, sinusoidal positions), by the factors of the paper's rows: (A) heads
at equal cost, (B) key size, (C) depth, width and feed-forward width, (D) dropout and label smoothing, (E) learned
positions. The paper's finding to compare with: one head is 0.9 BLEU worse than the best setting, too many heads lose
too, smaller keys hurt, bigger models and dropout help, learned positions make no difference.

The whole table, three seeds of each row, is one sweep:

    python -m experiments.sweep --config=configs/theory/attention_ablation.py:folder=multi30k_bpe \
        --workdir=runs/ablation --seeds=3 --objective=validation/multi_bleu

Hardware and time: as for multi30k.py; not yet run.
"""

from pathlib import Path

from ml_collections import ConfigDict

from research.config import argument, load
from research.search_space import Space, choice

BASE = Path(__file__).parents[1] / "translation" / "multi30k.py"
ROWS = {
    "base": {},
    "heads_1": {"model.num_heads": 1, "model.head_size": 128},
    "heads_2": {"model.num_heads": 2, "model.head_size": 64},
    "heads_8": {"model.num_heads": 8, "model.head_size": 16},
    "heads_16": {"model.num_heads": 16, "model.head_size": 8},
    "key_size_8": {"model.head_size": 8, "model.value_size": 32},
    "key_size_16": {"model.head_size": 16, "model.value_size": 32},
    "layers_1": {"model.num_layers": 1},
    "layers_2": {"model.num_layers": 2},
    "layers_6": {"model.num_layers": 6},
    "width_64": {"model.width": 64, "model.head_size": 16},
    "width_256": {"model.width": 256, "model.head_size": 64},
    "mlp_128": {"model.mlp_width": 128},
    "mlp_512": {"model.mlp_width": 512},
    "dropout_0": {"model.dropout": 0.0},
    "dropout_2": {"model.dropout": 0.2},
    "smoothing_0": {"task.label_smoothing": 0.0},
    "smoothing_2": {"task.label_smoothing": 0.2},
    "learned_positions": {"model.positions": "learned"},
}


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: row (of ROWS), folder (of the Multi30k files), tiny."""
    options = argument(arg, row=tuple(ROWS), folder="multi30k_bpe", tiny=False)
    if options.tiny:
        return load(f"{BASE}:folder={options.folder},tiny")
    return load(f"{BASE}:folder={options.folder}", ROWS[options.row])


def sweep() -> Space:
    """All rows of the table."""
    return {":row": choice(ROWS)}
