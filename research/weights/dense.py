"""The families of detection and segmentation whose model stands on a backbone of its own."""

from research.models.detr import DETR
from research.weights import derived, detr
from research.weights.family import LABELS, Family
from research.weights.fields import Field, Fields

DENSE = (
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
)
