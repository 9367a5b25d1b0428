"""What travels beside the weights of texts: vocabularies, their marks, and how tokens become a vector."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.files import read_json
from research.weights.fields import part_of

CONFIG = "config.json"
SPM = "source.spm"
"""A file of SentencePiece, beside which Marian has another for the target."""
LIMIT, POOLING, MODULES = "sentence_bert_config.json", "1_Pooling/config.json", "modules.json"
"""Files of sentence-transformers."""
_POOLS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}


def vocabulary_of(folder: Path, rows: int) -> TrainedTokenizer:
    """The vocabulary of a published model whose table has `rows` rows.

    Raises UserError where there is none, where it is of a kind that is not read, and where it has another size.
    """
    files = [folder / name for name in ("tokenizer.json", "vocab.txt", "vocab.json")]
    found = next((file for file in files if file.exists()), None)
    if found is None and (folder / SPM).exists():
        raise UserError(
            f"{folder} has its tokenizer as {SPM}, which is not read here: convert it to a tokenizer.json, or start a "
            f"training from it, with train --from={folder}"
        )
    if found is None:
        raise UserError(
            f"{folder} has neither tokenizer.json nor vocab.txt nor vocab.json: fetch the model's tokenizer"
        )
    vocabulary = Tokenizer(path=str(found)).read().with_rows(rows)
    if vocabulary.vocab_size != rows:
        raise UserError(
            f"{found} has {vocabulary.vocab_size:,} tokens and the model's table {rows:,} rows: give the "
            "tokenizer that was published with these weights"
        )
    return vocabulary


def pairs_of(folder: Path, config: Mapping[str, Any], rows: int) -> TrainedTokenizer:
    """The vocabulary of a published model that writes a text from another, whose table has `rows` rows.

    Raises UserError as `vocabulary_of`, and where config.json has other ids for padding and the ends of texts.
    """
    vocabulary = vocabulary_of(folder, rows)
    ids = {"pad_token_id": vocabulary.pad, "eos_token_id": vocabulary.eos, "decoder_start_token_id": vocabulary.bos}
    for key, own in ids.items():
        if (said := config.get(key, own)) != own:
            raise UserError(
                f"{folder / 'config.json'} has {key} {str(said)[:20]} and the tokenizer {own}: give the tokenizer that "
                "was published with these weights"
            )
    return vocabulary


def generation_written(
    vocabulary: TrainedTokenizer, longest: int, *, start: int | None = None, **options: Any
) -> dict[str, Any]:
    """What `config.json` and `generation_config.json` say of the tokens that a model writes, `longest` at most.

    start: the token that what is written starts with, of a model that reads another text; like padding it never stands
    in what is written. A vocabulary without a mark of the start has that of the end there.
    options: others of transformers' GenerationConfig.
    """
    between = vocabulary.eos if vocabulary.bos is None else None
    ids = {f"{role}_token_id": getattr(vocabulary, role) for role in ("pad", "bos", "eos")}
    ids = {key: between if value is None and key != "pad_token_id" else value for key, value in ids.items()}
    written: dict[str, Any] = {"max_length": longest, **options}
    if start is not None:
        ids["decoder_start_token_id"] = start
        written["suppress_tokens"] = [*dict.fromkeys((start, vocabulary.pad))]
    return {"config.json": ids, "generation_config.json": {**ids, **written}}


def encoder_of(source: Path, model: Any, folder: Path) -> dict[str, Any]:
    """Fields of a task (`tokenizer`, `length`) for a published encoder of text; its vocabulary is written into a run's
    folder.

    The rows of positions before `first_position`, which RoBERTa has two of, are of no token. Raises as `vocabulary_of`.
    """
    vocabulary = vocabulary_of(source, model.vocab_size)
    vocabulary.save(folder / "tokenizer.json")
    tokenizer = {"kind": "wordpiece" if vocabulary.parts_words else "bpe", "vocab_size": model.vocab_size}
    return {"tokenizer": tokenizer, "length": model.max_length - model.first_position}


def texts_of(folder: Path, config: Mapping[str, Any], rows: int) -> TrainedTokenizer:
    """The vocabulary of a published model of images and texts, whose table has `rows` rows.

    Raises UserError as `vocabulary_of`, and where a CLIP takes another token for the end of a text.
    """
    vocabulary = vocabulary_of(folder, rows)
    said = part_of(config, "text_config").get("eos_token_id", 49407)
    end = rows - 1 if said == OLD_END else said
    if config.get("model_type") == "clip" and end != vocabulary.eos:
        raise UserError(
            f"{folder / CONFIG} has texts that end with token {str(end)[:20]} and the tokenizer {vocabulary.eos}: give "
            "the tokenizer that was published with these weights"
        )
    return vocabulary


OLD_END = 2
"""The `eos_token_id` of the first CLIPs, whose vector of a text is that of its token with the highest number."""


def texts_written(vocabulary: TrainedTokenizer, model: Any) -> dict[str, Any]:
    """What config.json says of a vocabulary, in the part of a model's texts.

    Raises UserError where transformers would take another token for the end of a text.
    """
    if model.text.causal and vocabulary.eos == OLD_END != vocabulary.vocab_size - 1:
        raise UserError(
            f"transformers takes the highest token for a text's end where that is {OLD_END}: export a run whose "
            "tokenizer has another end, such as CLIP's"
        )
    ids = {"bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.eos, "pad_token_id": vocabulary.pad}
    return {"text_config": ids}


def sentences_of(folder: Path, longest: int) -> dict[str, Any]:
    """Fields of the task `sentences` from the files of sentence-transformers, where there are any.

    longest: tokens that the model has positions for.
    """
    fields: dict[str, Any] = {"length": longest}
    limit, pooling, modules = (folder / name for name in (LIMIT, POOLING, MODULES))
    if limit.exists() and isinstance(length := read_json(limit).get("max_seq_length"), int):
        fields["length"] = min(length, fields["length"])
    if pooling.exists():
        chosen = [name for name, on in read_json(pooling).items() if name.startswith("pooling_mode_") and on is True]
        if len(chosen) != 1 or chosen[0] not in _POOLS:
            raise UserError(f"{pooling} pools by {', '.join(chosen)[:80] or 'nothing'}: use one of {', '.join(_POOLS)}")
        fields["pool"] = _POOLS[chosen[0]]
    if modules.exists():
        kinds = [str(module.get("type")) for module in read_json(modules, list[dict])]
        fields["normalise"] = any(kind.endswith(".Normalize") for kind in kinds)
    return fields


def sentences_written(task: Any, model: Any) -> dict[str, Any]:
    """The files of sentence-transformers for a task `sentences`, by their names."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *[("2_Normalize", "Normalize")] * task.normalise]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds)
    ]
    pooling = {name: pool == task.pool for name, pool in _POOLS.items()}
    return {
        LIMIT: {"max_seq_length": task.length, "do_lower_case": False},
        POOLING: {"word_embedding_dimension": model.width, **pooling},
        MODULES: modules,
    }
