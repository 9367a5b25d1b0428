"""What travels beside the weights: how images are cut and normalised, how tokens become a vector."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.files import fits, read_json
from research.weights.fields import part_of

FILE = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
"""Where transformers 5 writes what it knows of images, in the part `image_processor`, beside what it knows of texts."""
TOKENIZER, CONFIG = "tokenizer_config.json", "config.json"
SPM = "source.spm"
"""A file of SentencePiece, beside which Marian has another for the target."""
LIMIT, POOLING, MODULES = "sentence_bert_config.json", "1_Pooling/config.json", "modules.json"
"""Files of sentence-transformers."""
_POOLS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
PLAIN = ("ViT", "Siglip", "Segformer", "Detr")
"""Kinds of image processors whose values, where a file does not say them, are those that are taken here."""
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
    if _described_in(folder) is None:
        return {"photo": {"size": size, "crop": "none"}}
    path, stored = _processor(folder)
    middle = stored.get("do_center_crop", False)
    resized = _side(path, stored.get("size", size))
    photo: dict[str, Any] = {"size": _side(path, stored.get("crop_size", size)) if middle else resized}
    if photo["size"] > resized:
        raise UserError(f"{path} cuts {photo['size']} pixels out of images of {resized}: only fewer are known here")
    number = stored.get("resample", 2)
    if not isinstance(number, int) or number not in _FILTERS:
        raise UserError(f"{path} resizes with filter {str(number)[:20]}: only 2 and 3 are known here")
    photo["interpolation"] = _FILTERS[number]
    photo |= {"crop_fraction": photo["size"] / resized} if middle else {"crop": "none"}
    if not stored.get("do_normalize", True):
        return _task(photo, [0.0] * 3, [1.0] * 3)
    return _task(photo, stored.get("image_mean"), stored.get("image_std"))


def _described_in(folder: Path) -> Path | None:
    """The file that says how images are prepared, if there is one."""
    return next((folder / name for name in (FILE, PROCESSOR) if (folder / name).exists()), None)


def _processor(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that says how images are prepared, and what it says.

    Raises UserError where there is none, for what is not done here, and where it leaves to transformers what only some
    of its processors do as ours does.
    """
    if (path := _described_in(folder)) is None:
        raise UserError(f"{folder} has no {FILE}, which says how pixels are normalised: fetch it")
    stored = read_json(path, dict[str, Any])
    if path.name == PROCESSOR and not isinstance(stored := stored.get("image_processor"), dict):
        raise UserError(f"{path} has no image_processor: fetch {FILE}")
    switches = ("do_resize", "do_rescale", "do_normalize", "do_center_crop")
    for key, value in stored.items():
        if key in switches and not isinstance(value, bool):
            raise UserError(f"{path} has {key} {str(value)[:20]!r}: it has to be true or false")
    factor = stored.get("rescale_factor", 1 / 255)
    scaled = isinstance(factor, int | float) and abs(255 * factor - 1) < 1e-6
    if not (stored.get("do_resize", True) and stored.get("do_rescale", True) and scaled):
        raise UserError(f"{path} has do_resize or do_rescale off, or another rescale_factor than 1/255: not done here")
    kind = str(stored.get("image_processor_type") or stored.get("feature_extractor_type") or PLAIN[0])
    needed = ("resample", "image_mean", "image_std", "do_center_crop")
    for key in (key for key in needed if key not in stored and not kind.startswith(PLAIN)):
        raise UserError(f"{path} of a {kind[:40]} does not say {key}: write there what transformers takes for it")
    return path, stored


def described_photo(folder: Path, size: int) -> dict[str, Any]:
    """`photo_of` for a model of transformers that says nowhere else how pixels are normalised.

    Raises UserError where it has neither of the files that do.
    """
    _processor(folder)
    return photo_of(folder, {}, size)


def windows_of(folder: Path, classes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of a task on windows (`size`, `mean`, `deviation`), and those of masks that a model was trained on.

    Where labels are reduced, 0 is a pixel of no class and 1 the first class. Raises UserError where there is no
    preprocessor_config.json.
    """
    path, stored, pixels = _stored(folder)
    size = _side(path, stored.get("size", 512))
    reduced = stored.get("do_reduce_labels", stored.get("reduce_labels", False)) is True
    masks = {"values": [*range(1, classes + 1)], "ignore": 0} if reduced else {}
    return {"size": size, **pixels}, masks


def _stored(folder: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """`_processor`, and `mean` and `deviation` of a task, ImageNet's where it does not say."""
    path, stored = _processor(folder)
    usual = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    given = [stored.get("image_mean", usual[0]), stored.get("image_std", usual[1])]
    fields = _task({}, *(given if stored.get("do_normalize", True) else ([0.0] * 3, [1.0] * 3)))
    return path, stored, {name: fields[name] for name in ("mean", "deviation")}


def boxed_of(folder: Path) -> dict[str, Any]:
    """Fields of a task on images with boxes (`size`, `short_side`, `mean`, `deviation`).

    Older files have the shorter side in `size` and the longest in `max_size`. Raises UserError where there is no
    preprocessor_config.json, and for images that do not keep their shape.
    """
    path, stored, pixels = _stored(folder)
    size = stored.get("size", {"shortest_edge": 800, "longest_edge": stored.get("max_size", 1333)})
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": stored.get("max_size", 1333)}
    if not isinstance(size, dict) or {*size} != {"shortest_edge", "longest_edge"}:
        raise UserError(
            f"{path} has images of {str(size)[:60]}: only a shortest_edge with a longest_edge is known here"
        )
    short, long = (_side(path, size[name]) for name in ("shortest_edge", "longest_edge"))
    return {"size": long, **({"short_side": short} if short < long else {}), **pixels}


def masks_written(data: Mapping[str, Any]) -> dict[str, Any]:
    """What preprocessor_config.json says of the masks that a section `data` reads: the inverse of `windows_of`."""
    if data.get("name") != "image_masks":
        return {}
    values = [*(data.get("values") or ())]
    return {"do_reduce_labels": values == [*range(1, len(data["classes"]) + 1)] and data.get("ignore") == 0}


def _side(path: Path, value: Any) -> int:
    """Pixels on a side: a number, or a dict with `shortest_edge`, or with `height` and an equal `width`."""
    if isinstance(value, dict):
        if value.get("height") != value.get("width"):
            raise UserError(f"{path} has images of {str(value)[:60]}: only square ones are known here")
        value = value.get("shortest_edge", value.get("height"))
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{path} has no size in pixels ({str(value)[:40]}): restore it as it was published")
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


def boxed_written(task: Any) -> dict[str, Any]:
    """transformers' preprocessor_config.json for a task on images with boxes: the inverse of `boxed_of`."""
    size = {"shortest_edge": task.short_side or task.size, "longest_edge": task.size}
    kind = {"image_processor_type": "DetrImageProcessor", "format": "coco_detection"}
    return {**kind, "do_resize": True, "size": size, "resample": 2, "do_pad": True, **_pixels_written(task)}


def _pixels_written(task: Any) -> dict[str, Any]:
    mean, deviation = (
        list(value) if isinstance(value, tuple) else [value] * task.image_shape[2]
        for value in (task.mean, task.deviation)
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
    vocabulary = Tokenizer(path=str(found), **_normalised(found)).read().with_rows(rows)
    if vocabulary.vocab_size != rows:
        raise UserError(
            f"{found} has {vocabulary.vocab_size:,} tokens and the model's table {rows:,} rows: give the "
            "tokenizer that was published with these weights"
        )
    return vocabulary


def _normalised(file: Path) -> dict[str, Any]:
    """Fields of a tokenizer from what the file beside a `vocab.txt` says of upper case and accents."""
    described = file.with_name(TOKENIZER)
    if file.name != "vocab.txt" or not described.exists():
        return {}
    stored = read_json(described, dict[str, Any])
    if stored.get("tokenize_chinese_chars", True) is not True:
        raise UserError(f"{described} does not part Chinese characters, which is not done here: give a tokenizer.json")
    said = {"lowercase": stored.get("do_lower_case", True), "strip_accents": stored.get("strip_accents")}
    if not isinstance(said["lowercase"], bool) or not isinstance(said["strip_accents"], bool | None):
        raise UserError(f"{described} has a do_lower_case or strip_accents that is neither true nor false: restore it")
    return said


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
