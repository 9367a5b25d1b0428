"""The families of published models that are read and written: the one place that a new one is added to."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from research.errors import UserError
from research.models.bert import BERT
from research.models.contract import WithHead
from research.models.efficientformer import EfficientFormer
from research.models.gpt import GPT
from research.models.mae import MAE
from research.models.mobilenet import MobileNet
from research.models.resnet import ResNet
from research.models.seq2seq import Seq2Seq
from research.models.swin import Swin
from research.models.vit import ViT
from research.weights import bert, derived, efficientformer, gpt, marian, mobilenet, resnet, swin, t5, vit
from research.weights.backbones import SWIN
from research.weights.dense import DENSE
from research.weights.family import LABELS, Family
from research.weights.fields import ACTIVATIONS, Field, Fields
from research.weights.match import best, match, read, shapes_of
from research.weights.table import Table

ENCODER = (
    Field("width", "hidden_size", 768),
    Field("num_layers", "num_hidden_layers", 12),
    Field("num_heads", "num_attention_heads", 12),
    Field("mlp_width", "intermediate_size", 3072),
    Field("norm_epsilon", "layer_norm_eps", 1e-12),
    Field("dropout", "hidden_dropout_prob", 0.0),
)
TEXT_ENCODER = (
    *(field._replace(default=0.1) if field.ours == "dropout" else field for field in ENCODER),
    Field("attention_dropout", "attention_probs_dropout_prob", 0.1),
    Field("vocab_size", "vocab_size", 30522),
    Field("max_length", "max_position_embeddings", 512),
    Field("segments", "type_vocab_size", 2),
    Field("activation", "hidden_act", "gelu", ACTIVATIONS),
)
TEXT_FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
PATCHES = (*ENCODER, Field("patch_size", "patch_size", 16))
PATCHES_FIXED = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3, "attention_probs_dropout_prob": 0.0}


def _always(*tables: Table) -> Callable[[Any], tuple[Table, ...]]:
    return lambda model: tables


DINO = (*(field for field in PATCHES if field.ours != "mlp_width"), Field("layer_scale", "layerscale_value", 1.0))
DINO = tuple(field._replace(default=1e-6) if field.ours == "norm_epsilon" else field for field in DINO)
DINO_FIXED = {**PATCHES_FIXED, "apply_layernorm": True}
T5 = {
    "positions": "relative_bias",
    "norm": "pre",
    "norm_kind": "rms",
    "use_bias": False,
    "scale_embeddings": False,
    "scale_attention": False,
}
MARIAN = {"positions": "sinusoidal_halves", "norm_epsilon": 1e-5, "output_bias": True}


def _dinov2(model: ViT) -> tuple[Table, ...]:
    return (vit.DINOV2_GATED if model.activation == "swiglu" else vit.DINOV2,)


FAMILIES = (
    Family(
        "bert",
        "bert",
        BERT,
        "sentences",
        _always(bert.BERT),
        Fields(TEXT_ENCODER, TEXT_FIXED),
        {
            "BertModel": ({"head": "pooler"}, {"head": "none"}),
            "BertForMaskedLM": ({"head": "masked"},),
            "BertForPreTraining": ({"head": "pretraining"},),
        },
    ),
    Family(
        "roberta",
        "bert",
        BERT,
        "masked_language",
        _always(bert.ROBERTA),
        Fields(TEXT_ENCODER, TEXT_FIXED | {"pad_token_id": 1}),
        {
            "RobertaModel": ({"head": "pooler", "first_position": 2}, {"head": "none", "first_position": 2}),
            "RobertaForMaskedLM": ({"head": "masked", "first_position": 2},),
        },
    ),
    Family(
        "gpt2",
        "gpt",
        GPT,
        "language_modeling",
        _always(gpt.GPT2),
        Fields(
            (
                Field("vocab_size", "vocab_size", 50257),
                Field("max_length", "n_positions", 1024),
                Field("width", "n_embd", 768),
                Field("num_layers", "n_layer", 12),
                Field("num_heads", "n_head", 12),
                Field("mlp_width", "n_inner", None),
                Field("dropout", "resid_pdrop", 0.1),
                Field("activation", "activation_function", "gelu_new", ACTIVATIONS),
            ),
            {
                "layer_norm_epsilon": 1e-5,
                "scale_attn_weights": True,
                "scale_attn_by_inverse_layer_idx": False,
                "add_cross_attention": False,
            },
        ),
        {"GPT2LMHeadModel": ({},), "GPT2Model": ({},)},
    ),
    Family(
        "vit",
        "vit",
        ViT,
        "classification",
        _always(vit.VIT),
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
        _always(swin.HUGGING_FACE),
        SWIN,
        {"SwinForImageClassification": ({"num_classes": LABELS},), "SwinModel": ({"num_classes": 0},)},
    ),
    *DENSE,
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
        _always(vit.MAE),
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
        "marian",
        "seq2seq",
        Seq2Seq,
        "translation",
        _always(marian.MARIAN),
        Fields(
            (
                Field("vocab_size", "vocab_size", 58101),
                Field("width", "d_model", 1024),
                Field("num_layers", "encoder_layers", 12),
                Field("num_decoder_layers", "decoder_layers", 12),
                Field("num_heads", "encoder_attention_heads", 16),
                Field("mlp_width", "encoder_ffn_dim", 4096),
                Field("activation", "activation_function", "gelu", ACTIVATIONS),
                Field("scale_embeddings", "scale_embedding", False),
                Field("dropout", "dropout", 0.1),
                Field("max_length", "max_position_embeddings", 1024),
            ),
            {
                "normalize_before": False,
                "normalize_embedding": False,
                "add_final_layer_norm": False,
                "share_encoder_decoder_embeddings": True,
                "tie_word_embeddings": True,
            },
            derived.MARIAN,
        ),
        {"MarianMTModel": (MARIAN,)},
    ),
    Family(
        "t5",
        "seq2seq",
        Seq2Seq,
        "translation",
        lambda model: (t5.GATED if model.activation == "geglu" else t5.PLAIN,),
        Fields(
            (
                Field("vocab_size", "vocab_size", 32128),
                Field("width", "d_model", 512),
                Field("head_size", "d_kv", 64),
                Field("mlp_width", "d_ff", 2048),
                Field("num_layers", "num_layers", 6),
                Field("num_decoder_layers", "num_decoder_layers", None),
                Field("num_heads", "num_heads", 8),
                Field("activation", "feed_forward_proj", "relu", {"relu": "relu", "gated-gelu": "geglu"}),
                Field("norm_epsilon", "layer_norm_epsilon", 1e-6),
                Field("dropout", "dropout_rate", 0.1),
            ),
            {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
            derived.T5,
        ),
        {"T5ForConditionalGeneration": (T5,)},
    ),
)
"""transformers' models."""

TIMM: Mapping[type, Callable[[Any], tuple[Table, ...]]] = {
    ViT: _always(vit.TIMM),
    Swin: _always(swin.TIMM),
    ResNet: lambda model: (resnet.timm(model),),
    MobileNet: lambda model: (mobilenet.timm(model),),
    EfficientFormer: lambda model: (efficientformer.timm(model),),
}
"""timm's models, by ours."""


def tables_of(model: Any) -> list[Table]:
    """Every table in which a model of this class may be published: timm's first. A head of ours is in none."""
    model = model.body if isinstance(model, WithHead) else model
    tables = list(TIMM.get(type(model), lambda model: ())(model))
    tables += [vit.ORIGINAL] * isinstance(model, ViT)
    return tables + [table for family in FAMILIES if type(model) is family.cls for table in family.tables(model)]


def taken(model: Any, inputs: Sequence[Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a published file by our paths, as far as a table for such a model knows their names.

    What it does not know keeps its name, for whoever asks to say so; what it drops is left out. inputs: as the model is
    called with. Raises UserError where no table knows any of the names.
    """
    shapes = shapes_of(model, inputs)
    if (table := best(tables_of(model), shapes, arrays)) is None:
        first = next(iter(arrays), "")
        raise UserError(f"transfer.source has no names that {type(model).__name__} reads ({first!r}, ...): convert it")
    found = match(table, shapes, arrays)
    return dict(read(found, arrays)) | {name: arrays[name] for name in found.unexpected}
