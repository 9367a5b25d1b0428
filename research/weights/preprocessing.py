"""What travels beside the weights of images: how they are resized, cut and normalised."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.errors import UserError
from research.files import fits, read_json

FILE = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
"""Where transformers 5 writes what it knows of images, in the part `image_processor`, beside what it knows of texts."""
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
