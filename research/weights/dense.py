"""The families of transformers' models that detect or segment."""

from research.models.detr import DETR
from research.models.segformer import SegFormer
from research.models.upernet import UPerNet
from research.weights import derived, detr, segformer, upernet
from research.weights.family import LABELS, Family
from research.weights.fields import Field, Fields

DENSE = (
    Family(
        "segformer",
        "segformer",
        SegFormer,
        "segmentation",
        lambda model: (segformer.SEGFORMER,),
        Fields(
            (
                Field("widths", "hidden_sizes", (32, 64, 160, 256)),
                Field("depths", "depths", (2, 2, 2, 2)),
                Field("num_heads", "num_attention_heads", (1, 2, 5, 8)),
                Field("reductions", "sr_ratios", (8, 4, 2, 1)),
                Field("decoder_width", "decoder_hidden_size", 256),
                Field("dropout", "classifier_dropout_prob", 0.1),
                Field("stochastic_depth", "drop_path_rate", 0.1),
            ),
            {
                "num_encoder_blocks": 4,
                "patch_sizes": [7, 3, 3, 3],
                "strides": [4, 2, 2, 2],
                "hidden_act": "gelu",
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
                "num_channels": 3,
                "reshape_last_stage": True,
            },
            derived.SEGFORMER,
        ),
        # It has 1e-5 in every norm, whatever its layer_norm_eps says.
        {"SegformerForSemanticSegmentation": ({"num_classes": LABELS, "norm_epsilon": 1e-5},)},
    ),
    Family(
        "detr",
        "detr",
        DETR,
        "detection",
        lambda model: (detr.table(model),),
        Fields(
            (
                Field("num_queries", "num_queries", 100),
                Field("width", "d_model", 256),
                Field("num_heads", "encoder_attention_heads", 8),
                Field("encoder_layers", "encoder_layers", 6),
                Field("decoder_layers", "decoder_layers", 6),
                Field("mlp_width", "encoder_ffn_dim", 2048),
                Field("dropout", "dropout", 0.1),
            ),
            {
                "activation_function": "relu",
                "position_embedding_type": "sine",
                "auxiliary_loss": False,  # it makes them normalise between layers of the decoder
                "encoder_layerdrop": 0.0,
                "decoder_layerdrop": 0.0,
                "num_channels": 3,
            },
            derived.DETR,
        ),
        {"DetrForObjectDetection": ({"num_classes": LABELS},)},
    ),
    Family(
        "upernet",
        "upernet",
        UPerNet,
        "segmentation",
        lambda model: (upernet.table(model),),
        Fields(
            (Field("width", "hidden_size", 512), Field("pool_scales", "pool_scales", (1, 2, 3, 6))),
            derived=derived.UPERNET,
        ),
        {"UperNetForSemanticSegmentation": ({"num_classes": LABELS},)},
    ),
)
