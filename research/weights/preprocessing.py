"""What travels beside the weights: how images are cut and normalised, how tokens become a vector."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.files import fits, read_json

FILE = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
"""Where transformers 5 writes what it knows of images, in the part `image_processor`, beside what it knows of texts."""
TOKENIZER, CONFIG = "tokenizer_config.json", "config.json"
SPM = "source.spm"
"""A file of SentencePiece, beside which Marian has another for the target."""
LIMIT, POOLING, MODULES = "sentence_bert_config.json", "1_Pooling/config.json", "modules.json"
"""Files of sentence-transformers."""
_POOLS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
_FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the two that we have."""


def photo_of(folder: Path, config: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Fields of a task on images (`photo`, `mean`, `deviation`), from timm's `pretrained_cfg` or transformers' file.

    size: pixels on a side where neither says so. Raises UserError for what our evaluation does not do.
    """
    if isinstance(timm := config.get("pretrained_cfg"), dict):
        photo = {"size": size, "interpolation": timm.get("interpolation", "bicubic")}
        photo["crop_fraction"] = timm.get("crop_pct", 0.875)
        return _task(photo, timm.get("mean"), timm.get("std"))
    if (folder / FILE).exists():
        stored = read_json(folder / FILE)
    elif (folder / PROCESSOR).exists():
        stored = read_json(folder / PROCESSOR, dict[str, Any]).get("image_processor")
        if not isinstance(stored, dict):
            raise UserError(f"{folder / PROCESSOR} has no image_processor: fetch {FILE}")
    else:
        return {"photo": {"size": size, "crop": "none"}}
    sides, cut = stored.get("size", size), stored.get("crop_size", size)
    resized = _side(sides)
    middle = stored.get("do_center_crop", False)
    photo = {"size": _side(cut) if middle else resized, "interpolation": _FILTERS.get(stored.get("resample", 2))}
    if photo["interpolation"] is None:
        raise UserError(f"{folder / FILE} resizes with filter {stored['resample']}: only 2 and 3 are known here")
    photo |= {"crop_fraction": min(1.0, photo["size"] / resized)} if middle else {"crop": "none"}
    if not stored.get("do_normalize", True):
        return _task(photo, [0.0] * 3, [1.0] * 3)
    return _task(photo, stored.get("image_mean"), stored.get("image_std"))


def described_photo(folder: Path, size: int) -> dict[str, Any]:
    """`photo_of` for a model of transformers that says nowhere else how pixels are normalised.

    Raises UserError where it has neither of the files that do.
    """
    if not (folder / FILE).exists() and not (folder / PROCESSOR).exists():
        raise UserError(f"{folder} has no {FILE}, which says how pixels are normalised: fetch it")
    return photo_of(folder, {}, size)


def windows_of(folder: Path, classes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of a task on windows (`size`, `mean`, `deviation`), and those of masks that a model was trained on.

    Where labels are reduced, 0 is a pixel of no class and 1 the first class. Raises UserError where there is no
    preprocessor_config.json, without which nobody knows what the model's pixels are.
    """
    if not (folder / FILE).exists():
        raise UserError(f"{folder} has no {FILE}, which says how pixels are normalised: fetch it")
    stored = read_json(folder / FILE)
    size = stored.get("size", 512)
    if isinstance(size, dict) and size.get("height") != size.get("width"):
        raise UserError(f"{folder / FILE} has windows of {str(size)[:60]}: only square ones are known here")
    usual = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    given = [stored.get("image_mean", usual[0]), stored.get("image_std", usual[1])]
    fields = _task({}, *(given if stored.get("do_normalize", True) else ([0.0] * 3, [1.0] * 3)))
    reduced = stored.get("do_reduce_labels", stored.get("reduce_labels", False)) is True
    masks = {"values": [*range(1, classes + 1)], "ignore": 0} if reduced else {}
    return {"size": _side(size), **{name: fields[name] for name in ("mean", "deviation")}}, masks


def masks_written(data: Mapping[str, Any]) -> dict[str, Any]:
    """What preprocessor_config.json says of the masks that a section `data` reads: the inverse of `windows_of`."""
    if "classes" not in data:
        return {}
    values = [*(data.get("values") or ())]
    return {"do_reduce_labels": values == [*range(1, len(data["classes"]) + 1)] and data.get("ignore") == 0}


def _side(value: Any) -> int:
    """Pixels on a side: a number, or a dict with `shortest_edge` or `height`."""
    if isinstance(value, dict):
        value = value.get("shortest_edge", value.get("height"))
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{FILE} has no size in pixels ({str(value)[:40]}): restore it as it was published")
    return value


def _task(photo: dict[str, Any], mean: Any, deviation: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"photo": photo}
    for name, value in (("mean", mean), ("deviation", deviation)):
        if value is not None:
            if not fits(value, list[float]) or len(value) != 3:
                raise UserError(f"the {name} of the pixels is {str(value)[:40]}: give one number for each colour")
            fields[name] = tuple(value)
    return fields


def photo_written(task: Any, kind: str = "ViTImageProcessor") -> dict[str, Any]:
    """transformers' preprocessor_config.json, of a kind of image processor, for a task on images."""
    photo = task.photo
    filters = {name: number for number, name in _FILTERS.items()}
    written = {
        "image_processor_type": kind,
        "do_resize": True,
        "do_center_crop": False,
        "size": {"height": photo.size, "width": photo.size},
        "resample": filters[photo.interpolation],
        **_pixels_written(task),
    }
    if photo.crop == "random_resized":
        written |= {"do_center_crop": True, "crop_size": {"height": photo.size, "width": photo.size}}
        written["size"] = {"shortest_edge": int(photo.size / photo.crop_fraction)}
    return written


def resized_written(kind: str, size: Any, task: Any) -> dict[str, Any]:
    """transformers' preprocessor_config.json of a kind of image processor, for a task whose images are made square."""
    resized = {"do_resize": True, "size": {"height": size, "width": size}, "resample": 2}
    return {"image_processor_type": kind, **resized, **_pixels_written(task)}


def _pixels_written(task: Any) -> dict[str, Any]:
    mean, deviation = (
        list(value) if isinstance(value, tuple) else [value] * 3 for value in (task.mean, task.deviation)
    )
    return {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": deviation,
    }


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
    in what is written. Where there is no mark of a start, it is that of the end.
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
    part = config.get("text_config_dict") or config.get("text_config")
    said = part.get("eos_token_id", 49407) if isinstance(part, dict) else 49407
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
