"""The families of transformers' models of text."""

from collections.abc import Mapping
from typing import Any

from research.models.bert import BERT
from research.models.gpt import GPT
from research.models.seq2seq import Seq2Seq
from research.models.text_head import Pooling, TextHead
from research.weights import bert, derived, gpt, marian, t5
from research.weights.family import ENCODER, Family, always
from research.weights.fields import ACTIVATIONS, Field, Fields
from research.weights.table import Table

TEXT_ENCODER = (
    *(field._replace(default=0.1) if field.ours == "dropout" else field for field in ENCODER),
    Field("attention_dropout", "attention_probs_dropout_prob", 0.1),
    Field("vocab_size", "vocab_size", 30522),
    Field("max_length", "max_position_embeddings", 512),
    Field("segments", "type_vocab_size", 2),
    Field("activation", "hidden_act", "gelu", ACTIVATIONS),
)
TEXT_FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
BERT_FIELDS = Fields(TEXT_ENCODER, TEXT_FIXED)
ROBERTA_FIELDS = Fields(TEXT_ENCODER, TEXT_FIXED | {"pad_token_id": 1})
T5 = {
    "positions": "relative_bias",
    "norm": "pre",
    "norm_kind": "rms",
    "use_bias": False,
    "scale_embeddings": False,
    "scale_attention": False,
}
MARIAN = {"positions": "sinusoidal_halves", "norm_epsilon": 1e-5, "output_bias": True}

TEXT_TASKS: Mapping[str, tuple[str, Pooling | None]] = {
    "ForSequenceClassification": ("text_classification", "pooler"),
    "ForTokenClassification": ("token_classification", None),
    "ForQuestionAnswering": ("question_answering", None),
}
"""Our task of a class of fine-tuned models, by how its name ends, and how its new layer pools."""


def _fine_tuned(name: str, classes: str, fields: Fields, tables: Mapping[str, Table], **more: Any) -> list[Family]:
    """Encoders of text with the new layer of a task. classes: how their names begin. more: fields of ours."""
    return [
        Family(
            name,
            "bert",
            TextHead,
            task,
            always(tables[ending]),
            fields,
            {classes + ending: ({"head": "none" if pool is None else pool, **more},)},
            pool=pool,
        )
        for ending, (task, pool) in TEXT_TASKS.items()
    ]


TEXTS = (
    Family(
        "bert",
        "bert",
        BERT,
        "sentences",
        always(bert.BERT),
        BERT_FIELDS,
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
        "sentences",
        always(bert.ROBERTA),
        ROBERTA_FIELDS,
        {"RobertaModel": ({"head": "pooler", "first_position": 2}, {"head": "none", "first_position": 2})},
    ),
    Family(
        "roberta",
        "bert",
        BERT,
        "masked_language",
        always(bert.ROBERTA),
        ROBERTA_FIELDS,
        {"RobertaForMaskedLM": ({"head": "masked", "first_position": 2},)},
    ),
    *_fine_tuned("bert", "Bert", BERT_FIELDS, bert.BERT_HEADS),
    *_fine_tuned("roberta", "Roberta", ROBERTA_FIELDS, bert.ROBERTA_HEADS, first_position=2),
    Family(
        "gpt2",
        "gpt",
        GPT,
        "language_modeling",
        always(gpt.GPT2),
        Fields(
            (
                Field("vocab_size", "vocab_size", 50257),
                Field("max_length", "n_positions", 1024),
                Field("width", "n_embd", 768),
                Field("num_layers", "n_layer", 12),
                Field("num_heads", "n_head", 12),
                Field("mlp_width", "n_inner", None),
                Field("dropout", "embd_pdrop", 0.1),
                Field("dropout", "attn_pdrop", 0.1),
                Field("dropout", "resid_pdrop", 0.1),
                Field("activation", "activation_function", "gelu_new", ACTIVATIONS),
                Field("norm_epsilon", "layer_norm_epsilon", 1e-5),
            ),
            {
                "scale_attn_weights": True,
                "scale_attn_by_inverse_layer_idx": False,
                "add_cross_attention": False,
            },
        ),
        {"GPT2LMHeadModel": ({},), "GPT2Model": ({},)},
    ),
    Family(
        "marian",
        "seq2seq",
        Seq2Seq,
        "translation",
        always(marian.MARIAN),
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
                Field("attention_dropout", "attention_dropout", 0.0),
                Field("activation_dropout", "activation_dropout", 0.0),
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
