"""What travels beside the weights: how images are cut and normalised, how tokens become a vector."""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.files import fits, read_json

FILE = "preprocessor_config.json"
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
    if not (folder / FILE).exists():
        return {"photo": {"size": size, "crop": "none"}}
    stored = read_json(folder / FILE)
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


def windows_of(folder: Path, classes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of a task on windows (`size`, `mean`, `deviation`), and those of masks that a model was trained on.

    Where labels are reduced, 0 is a pixel of no class and 1 the first class. Raises UserError where there is no
    preprocessor_config.json.
    """
    stored, pixels = _stored(folder)
    size = stored.get("size", 512)
    if isinstance(size, dict) and size.get("height") != size.get("width"):
        raise UserError(f"{folder / FILE} has windows of {str(size)[:60]}: only square ones are known here")
    reduced = stored.get("do_reduce_labels", stored.get("reduce_labels", False)) is True
    masks = {"values": [*range(1, classes + 1)], "ignore": 0} if reduced else {}
    return {"size": _side(size), **pixels}, masks


def _stored(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What preprocessor_config.json says, and `mean` and `deviation` of a task, ImageNet's where it does not say.

    Raises UserError where there is no such file, without which nobody knows what the model's pixels are.
    """
    if not (folder / FILE).exists():
        raise UserError(f"{folder} has no {FILE}, which says how pixels are normalised: fetch it")
    stored = read_json(folder / FILE)
    usual = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    given = [stored.get("image_mean", usual[0]), stored.get("image_std", usual[1])]
    fields = _task({}, *(given if stored.get("do_normalize", True) else ([0.0] * 3, [1.0] * 3)))
    return stored, {name: fields[name] for name in ("mean", "deviation")}


def boxed_of(folder: Path) -> dict[str, Any]:
    """Fields of a task on images with boxes (`size`, `short_side`, `mean`, `deviation`).

    Older files have the shorter side in `size` and the longest in `max_size`. Raises UserError where there is no
    preprocessor_config.json, and for images that do not keep their shape.
    """
    stored, pixels = _stored(folder)
    size = stored.get("size", {"shortest_edge": 800, "longest_edge": stored.get("max_size", 1333)})
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": stored.get("max_size", 1333)}
    if not isinstance(size, dict) or {*size} != {"shortest_edge", "longest_edge"} or not stored.get("do_resize", True):
        raise UserError(
            f"{folder / FILE} has images of {str(size)[:60]}: only a shortest_edge with a longest_edge is known here"
        )
    short, long = (_side({"height": size[name]}) for name in ("shortest_edge", "longest_edge"))
    return {"size": long, **({"short_side": short} if short < long else {}), **pixels}


def distinct(names: Sequence[str]) -> list[str]:
    """Names of classes of which several are the same, such as COCO's "N/A", each of these with its number."""
    counts = collections.Counter(names)
    return [name if counts[name] == 1 else f"{name} {number}" for number, name in enumerate(names)]


def masks_written(data: Mapping[str, Any]) -> dict[str, Any]:
    """What preprocessor_config.json says of the masks that a section `data` reads: the inverse of `windows_of`."""
    if data.get("name") != "image_masks":
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


def photo_written(task: Any) -> dict[str, Any]:
    """transformers' preprocessor_config.json for a task on images."""
    photo = task.photo
    filters = {name: number for number, name in _FILTERS.items()}
    written = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
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


def sentences_of(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the task `sentences` from the files of sentence-transformers, where there are any."""
    longest = config.get("max_position_embeddings", 512)
    fields: dict[str, Any] = {"length": longest if isinstance(longest, int) else 512}
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
