"""transformers' BERT, RoBERTa and MiniLM, and the new layers of their fine-tuned models."""

import dataclasses

from research.weights.layouts import TRANSPOSE
from research.weights.table import Drop, Table, attention, dense, line, norm

_LAYER, _OURS = "encoder.layer.{}", "encoder/layer_{}"
_ENCODER = (
    line("embedding/embedding", "embeddings.word_embeddings.weight"),
    line("position_embedding/embedding", "embeddings.position_embeddings.weight"),
    line("segment_embedding/embedding", "embeddings.token_type_embeddings.weight"),
    *norm("embedding_norm", "embeddings.LayerNorm"),
    *attention(
        f"{_OURS}/self_attention",
        f"{_LAYER}.attention.self.query",
        f"{_LAYER}.attention.self.key",
        f"{_LAYER}.attention.self.value",
        f"{_LAYER}.attention.output.dense",
    ),
    *norm(f"{_OURS}/self_attention_norm", f"{_LAYER}.attention.output.LayerNorm"),
    *dense(f"{_OURS}/feed_forward/up", f"{_LAYER}.intermediate.dense"),
    *dense(f"{_OURS}/feed_forward/down", f"{_LAYER}.output.dense"),
    *norm(f"{_OURS}/feed_forward_norm", f"{_LAYER}.output.LayerNorm"),
    *dense("pooler", "pooler.dense"),
)
_TOKENS = "embeddings.word_embeddings.weight"
_POSITIONS = Drop(r"embeddings\.(position|token_type)_ids", "counts from 0, or zeros")
_UNUSED_POOLER = Drop(r"pooler\.dense\.(weight|bias)", "of a model whose head does not read it")

BERT = Table(
    (
        *_ENCODER,
        *dense("masked/transform", "cls.predictions.transform.dense", TRANSPOSE),
        *norm("masked/norm", "cls.predictions.transform.LayerNorm"),
        line("masked/bias", "cls.predictions.bias"),
        *dense("next_sentence", "cls.seq_relationship"),
    ),
    drops=(
        _POSITIONS,
        _UNUSED_POOLER,
        Drop(r"cls\.predictions\.decoder\.weight", "the table of tokens once more", _TOKENS),
        Drop(r"cls\.predictions\.decoder\.bias", "the bias of the predictions once more", "cls.predictions.bias"),
        Drop(r"cls\..*", "heads of pre-training, which this model is built without"),
    ),
    spellings=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    prefix="bert.",
    heads=("cls.",),
)
ROBERTA = Table(
    (
        *_ENCODER,
        *dense("masked/transform", "lm_head.dense"),
        *norm("masked/norm", "lm_head.layer_norm"),
        line("masked/bias", "lm_head.bias"),
    ),
    drops=(
        _POSITIONS,
        _UNUSED_POOLER,
        Drop(r"lm_head\.decoder\.weight", "the table of tokens once more", _TOKENS),
        Drop(r"lm_head\.decoder\.bias", "the bias of the head once more", "lm_head.bias"),
        Drop(r"lm_head\..*", "the head of pre-training, which this model is built without"),
    ),
    prefix="roberta.",
    heads=("lm_head.",),
)


def _headed(table: Table, layer: str, pooler: str = "pooler.dense") -> Table:
    """The table of an encoder with the new layer of a task on texts (`research.models.text_head`)."""
    lines = [
        one._replace(theirs=tuple(name.replace("pooler.dense", pooler) for name in one.theirs)) for one in table.lines
    ]
    heads = (*table.heads, "classifier.", "qa_outputs.")
    return dataclasses.replace(table, lines=(*lines, *dense("head", layer)), heads=heads)


BERT_HEADS = {
    "ForSequenceClassification": _headed(BERT, "classifier"),
    "ForTokenClassification": _headed(BERT, "classifier"),
    "ForQuestionAnswering": _headed(BERT, "qa_outputs"),
}
ROBERTA_HEADS = {
    "ForSequenceClassification": _headed(ROBERTA, "classifier.out_proj", "classifier.dense"),
    "ForTokenClassification": _headed(ROBERTA, "classifier"),
    "ForQuestionAnswering": _headed(ROBERTA, "qa_outputs"),
}
"""By how the names of transformers' classes end. A RoBERTa that classifies has its pooler in its head."""
