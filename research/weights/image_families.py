"""The families of transformers' models of images, and of images with texts."""

from research.models.mae import MAE
from research.models.swin import Swin
from research.models.two_towers import TwoTowers
from research.models.vit import ViT
from research.weights import clip, derived, swin, vit
from research.weights.backbones import SWIN
from research.weights.family import ENCODER, LABELS, Family, always
from research.weights.fields import Field, Fields
from research.weights.table import Table

PATCHES = (*ENCODER, Field("patch_size", "patch_size", 16))
PATCHES_FIXED = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3, "attention_probs_dropout_prob": 0.0}
DINO = (*(field for field in PATCHES if field.ours != "mlp_width"), Field("layer_scale", "layerscale_value", 1.0))
DINO = tuple(field._replace(default=1e-6) if field.ours == "norm_epsilon" else field for field in DINO)
DINO_FIXED = {**PATCHES_FIXED, "apply_layernorm": True}


def _dinov2(model: ViT) -> tuple[Table, ...]:
    return (vit.DINOV2_GATED if model.activation == "swiglu" else vit.DINOV2,)


IMAGES = (
    Family(
        "vit",
        "vit",
        ViT,
        "classification",
        always(vit.VIT),
        Fields(PATCHES, PATCHES_FIXED),
        {"ViTForImageClassification": ({"num_classes": LABELS},), "ViTModel": ({"num_classes": 0},)},
    ),
    Family(
        "deit",
        "vit",
        ViT,
        "classification",
        lambda model: (vit.DEIT if model.distillation and model.num_classes else vit.DEIT_WITHOUT_TEACHER,),
        Fields(PATCHES, PATCHES_FIXED),
        {"DeiTForImageClassificationWithTeacher": ({"num_classes": LABELS, "distillation": True},)},
    ),
    Family(
        "swin",
        "swin",
        Swin,
        "classification",
        always(swin.HUGGING_FACE),
        SWIN,
        {"SwinForImageClassification": ({"num_classes": LABELS},), "SwinModel": ({"num_classes": 0},)},
    ),
    Family(
        "dinov2",
        "vit",
        ViT,
        "classification",
        _dinov2,
        Fields(DINO, DINO_FIXED, derived.DINO),
        {"Dinov2Model": ({"num_classes": 0},)},
    ),
    Family(
        "dinov2_with_registers",
        "vit",
        ViT,
        "classification",
        _dinov2,
        Fields((*DINO, Field("registers", "num_register_tokens", 4)), DINO_FIXED, derived.DINO),
        {"Dinov2WithRegistersModel": ({"num_classes": 0},)},
    ),
    Family(
        "vit_mae",
        "mae",
        MAE,
        None,
        always(vit.MAE),
        Fields(
            (
                *(field for field in PATCHES if field.ours != "dropout"),
                Field("decoder_width", "decoder_hidden_size", 512),
                Field("decoder_layers", "decoder_num_hidden_layers", 8),
                Field("decoder_heads", "decoder_num_attention_heads", 16),
                Field("masked", "mask_ratio", 0.75),
            ),
            {**PATCHES_FIXED, "hidden_dropout_prob": 0.0},
            derived.MAE,
        ),
        {"ViTMAEForPreTraining": ({"longest_wave": False}, {"longest_wave": True})},
        made=vit.mae_positions,
    ),
    Family(
        "clip",
        "two_towers",
        TwoTowers,
        "image_text",
        lambda model: (clip.clip(model),),
        clip.CLIP,
        {"CLIPModel": ({"limit": None},)},
    ),
    Family(
        "siglip",
        "two_towers",
        TwoTowers,
        "image_text",
        lambda model: (clip.siglip(model),),
        clip.SIGLIP,
        {"SiglipModel": (clip.SIGLIP_ALWAYS,)},
    ),
)
