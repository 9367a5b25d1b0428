"""Files that say where objects are in images: COCO's JSON, YOLO's folders of texts, and Pascal VOC's XML.

What a file says is checked before it is used; a box that cannot be one is left out, and a sentence says how many are.
"""

import collections
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from xml.etree import ElementTree

import numpy as np

from research.data.archives import name_within, tree
from research.data.image_files import SUFFIXES, read_image_file, short, shown
from research.errors import UserError
from research.files import fits

EDGE = 1.0
"""Pixels by which a box may reach over the image without a word: many tools round so."""
NAMED = 5
LISTS = ("images", "annotations", "categories")


class Entry(NamedTuple):
    """An image: its file's name, its size (height, width) if known, and its boxes [n, 4], left, top, right, bottom in
    pixels, or in fractions of the size where that is not known; `objects` [n] are their classes, `crowd` [n] says which
    stand for many things, and `areas` [n] are in square pixels, None for those of the boxes."""

    name: str
    size: tuple[int, int] | None
    boxes: np.ndarray
    objects: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray | None


class Annotations(NamedTuple):
    """What a path says: the classes, the folder of the images, the images, and sentences about what is left out."""

    classes: tuple[str, ...]
    images: str
    entries: tuple[Entry, ...]
    left_out: tuple[str, ...]


class _Boxes:
    """The boxes of one image as they are found, and of all images what is wrong with those that are left out."""

    def __init__(self, path: str):
        self.path = path
        self.wrong: dict[str, list[str]] = collections.defaultdict(list)
        self.rows: dict[Any, list[tuple]] = collections.defaultdict(list)

    def add(self, image: Any, size: tuple[float, float], sides: Sequence[float], number: int, name: str, **more: Any):
        """sides: left, top, right, bottom; size: height and width of the image in the same unit."""
        left, top, right, bottom = sides = [_number(side) for side in sides]
        if not all(map(math.isfinite, sides)):
            return self.wrong["have sides that are not finite numbers"].append(name)
        if not (right > left and bottom > top):
            return self.wrong["have no area"].append(name)
        height, width = size
        cut = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
        if not (cut[2] > cut[0] and cut[3] > cut[1]):
            return self.wrong["lie outside of their image"].append(name)
        edge = EDGE if size != (1, 1) else EDGE / 100
        if max(abs(a - b) for a, b in zip(cut, sides, strict=True)) > edge:
            self.wrong["reach over the edge of their image, and are cut there"].append(name)
        return self.rows[image].append((cut, number, more.get("crowd", False), more.get("area")))

    def entry(self, image: Any, name: str, size: tuple[int, int] | None) -> Entry:
        rows = self.rows.pop(image, [])
        boxes, objects, crowd, areas = zip(*rows, strict=True) if rows else ((), (), (), ())
        return Entry(
            name,
            size,
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(objects, np.int32),
            np.array(crowd, bool),
            np.array(areas, np.float32) if rows and None not in areas else None,
        )

    def sentences(self) -> tuple[str, ...]:
        return tuple(_sentence(self.path, names, what) for what, names in self.wrong.items())


def read_annotations(path: str, images: str | None, classes: tuple[str, ...]) -> Annotations:
    """What a path says: a JSON file of COCO; a folder `.../images/...` with texts in `.../labels/...` (YOLO); a folder
    of XML files, or a text file with their names, as in `ImageSets/Main` (Pascal VOC).

    images: the folder of the images, if not the usual one. classes: names of YOLO's numbers, or VOC's or COCO's in an
    order; otherwise YOLO's are in `classes.txt` above `images`, and VOC's are those found, sorted.

    Raises UserError for another path, for a file that is not what it should be, and for names that are not different.
    """
    found = _read(path, images, classes)
    plain = {name for name in found.classes if name.strip() and name.isprintable()}
    if not found.classes or len(plain) < len(found.classes):
        named = ", ".join(map(shown, found.classes[:NAMED]))
        raise UserError(
            f"{shown(path)} has {len(found.classes)} classes ({named}): give one or more, each with a name of its own "
            "that can be printed"
        )
    return found


def _read(path: str, images: str | None, classes: tuple[str, ...]) -> Annotations:
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
        if any(name.lower().endswith(".xml") for name in names):
            return _voc(Path(path), [name for name in names if name.lower().endswith(".xml")], images, classes)
        return _yolo(path, images, classes)
    if path.lower().endswith(".txt"):
        names = [f"{line.split()[0]}.xml" for line in _text(path).splitlines() if line.strip()]
        folder = Path(os.path.normpath(os.path.join(os.path.dirname(path), "..", "..", "Annotations")))
        return _voc(folder, [name_within(name, shown(path)) for name in names], images, classes)
    return _coco(path, images, classes)


def _coco(path: str, images: str | None, classes: tuple[str, ...]) -> Annotations:
    content = _json(path)
    for name in LISTS:
        if not fits(content.get(name), list[dict[str, Any]]):
            raise UserError(f"{shown(path)} has no list {name!r}: give annotations in COCO's form, with {LISTS}")
    kinds = _by_id(content["categories"], {"name": str}, f"categories of {shown(path)}")
    listed = _by_id(content["images"], {"file_name": str, "width": int, "height": int}, f"images of {shown(path)}")
    own = [kind["name"] for kind in kinds.values()]
    names = classes if classes and len({*own}) == len(own) else tuple(own)  # the caller refuses names that are twice
    if others := [name for name in own if name not in names]:
        raise UserError(f"{shown(path)} has the category {shown(others[0])}, which data.classes does not list: add it")
    numbers = dict(zip(kinds, map(names.index, own), strict=True))
    boxes = _Boxes(path)
    for place, entry in enumerate(content["annotations"]):
        name = f"annotation {entry.get('id', place)}"
        image = listed.get(entry.get("image_id")) if isinstance(entry.get("image_id"), int) else None
        kind = numbers.get(entry.get("category_id")) if isinstance(entry.get("category_id"), int) else None
        box, area, crowd = entry.get("bbox"), entry.get("area"), entry.get("iscrowd", 0)
        if image is None:
            boxes.wrong["are of images that are not listed"].append(name)
        elif kind is None:
            boxes.wrong["are of categories that are not listed"].append(name)
        elif not fits(box, list[float]) or len(box) != 4:
            boxes.wrong["have a bbox that is not four numbers"].append(name)
        else:
            sides = (box[0], box[1], box[0] + box[2], box[1] + box[3])
            known = fits(area, float) and 0 <= _number(area) < math.inf
            area = _number(area) if known else _number(box[2]) * _number(box[3])
            size = (image["height"], image["width"])
            boxes.add(image["id"], size, sides, kind, name, crowd=crowd in (1, True), area=area)
    entries = []
    for identity, image in listed.items():
        if not (0 < image["height"] < 2**20 and 0 < image["width"] < 2**20):
            raise UserError(f"image {identity} of {shown(path)} has no size: give its height and width in pixels")
        name = name_within(image["file_name"], shown(path))
        entries.append(boxes.entry(identity, name, (image["height"], image["width"])))
    folder = images or str(Path(path).parent / "images")
    return Annotations(names, folder, tuple(entries), boxes.sentences())


def _yolo(path: str, images: str | None, classes: tuple[str, ...]) -> Annotations:
    if images is not None:
        raise UserError(f"{shown(path)} holds the images of YOLO itself: leave data.images {shown(images)!r} out")
    parts = list(Path(path).parts)
    if "images" not in parts:
        raise UserError(
            f"{shown(path)} holds no XML files and has no folder 'images' in its name: give a COCO JSON file, a folder "
            "of Pascal VOC's XML files, or YOLO's folder of images"
        )
    place = len(parts) - 1 - parts[::-1].index("images")
    labels = Path(*parts[:place], "labels", *parts[place + 1 :])
    named = Path(*parts[:place]) / "classes.txt"
    if not classes and not named.exists():
        raise UserError(f"{shown(path)} has numbers for classes: name them in {shown(named)} or with data.classes")
    classes = classes or tuple(line.strip() for line in _text(str(named)).splitlines() if line.strip())
    boxes, entries = _Boxes(str(labels)), []
    for name in tree(path).files:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in SUFFIXES:
            continue
        file = labels / f"{stem}.txt"
        for number, line in enumerate(_text(str(file)).splitlines() if file.exists() else [], 1):
            where, words = f"line {number} of {stem}.txt", line.split()
            if not words:
                continue
            kind, sides = _yolo_line(words)
            if kind is None or len(sides) != 4:
                raise UserError(f"{shown(where)} is not a class and four numbers: write 'class x y width height'")
            if kind >= len(classes):
                boxes.wrong["are of classes without a name"].append(where)
                continue
            x, y, width, height = sides
            boxes.add(name, (1, 1), (x - width / 2, y - height / 2, x + width / 2, y + height / 2), kind, where)
        entries.append(boxes.entry(name, name, None))
    return Annotations(classes, path, tuple(entries), boxes.sentences())


def _yolo_line(words: Sequence[str]) -> tuple[int | None, list[float]]:
    try:
        return int(words[0]) if words[0].isascii() and words[0].isdecimal() else None, [float(w) for w in words[1:]]
    except ValueError:
        return None, []


def _voc(folder: Path, names: Sequence[str], images: str | None, classes: tuple[str, ...]) -> Annotations:
    files = {name: _xml(folder / name) for name in names}
    found = {_tag(thing, "name", str) for root in files.values() for thing in root.iter("object")}
    classes = classes or tuple(sorted(found))
    boxes, entries = _Boxes(str(folder)), []
    for name, root in files.items():
        size = _tag(root, "size/height", int), _tag(root, "size/width", int)
        for number, thing in enumerate(root.iter("object"), 1):
            where, kind = f"object {number} of {name}", _tag(thing, "name", str)
            if kind not in classes:
                boxes.wrong["are of classes that data.classes does not name"].append(where)
                continue
            sides = [_tag(thing, f"bndbox/{side}", float) for side in ("xmin", "ymin", "xmax", "ymax")]
            sides = [sides[0] - 1, sides[1] - 1, *sides[2:]]  # the first pixel is number 1
            crowd = thing.findtext("difficult", "0").strip() == "1"  # counts neither for nor against
            boxes.add(name, size, sides, classes.index(kind), where, crowd=crowd)
        entries.append(boxes.entry(name, name_within(_tag(root, "filename", str), shown(folder / name)), size))
    return Annotations(classes, images or str(folder.parent / "JPEGImages"), tuple(entries), boxes.sentences())


def _xml(path: Path) -> ElementTree.Element:
    """The root of an XML file. Raises UserError for one with declarations, whose entities may grow or name files."""
    data = _bytes(path)
    if b"<!" in data.replace(b"<!--", b"") or data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data:
        raise UserError(f"{shown(path)} declares a DOCTYPE or entities, or is not UTF-8: write it without")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise UserError(f"{shown(path)} is not XML ({short(error)}): repair or remove it") from error


def _tag[T](node: ElementTree.Element, name: str, kind: Callable[[str], T]) -> T:
    text = (node.findtext(name) or "").strip()
    try:
        return kind(text) if text else _refuse(text)
    except ValueError as error:
        raise UserError(
            f"<{node.tag}> has {name} {shown(text)!r} in an XML file: give what Pascal VOC has there"
        ) from error


def _json(path: str) -> dict[str, Any]:
    try:
        content = json.loads(_bytes(path), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(path)} is not JSON ({short(error)}): give annotations in COCO's form") from error
    if not isinstance(content, dict):
        raise UserError(f"{shown(path)} has no list 'images': give annotations in COCO's form, with {LISTS}")
    return content


def _by_id(entries: Sequence[dict[str, Any]], hints: Mapping[str, type], where: str) -> dict[int, dict[str, Any]]:
    """The entries by their ids, which need not follow each other."""
    found: dict[int, dict[str, Any]] = {}
    for place, entry in enumerate(entries):
        wrong = next((name for name, hint in {"id": int, **hints}.items() if not fits(entry.get(name), hint)), None)
        if wrong is not None:
            raise UserError(f"number {place + 1} of the {where} has no valid {wrong!r}: give it one")
        if entry["id"] in found:
            raise UserError(f"two {where} have the id {entry['id']}: give each its own")
        found[entry["id"]] = entry
    return found


def _bytes(path: Path | str) -> bytes:
    try:
        return read_image_file(path)
    except UserError as error:
        raise UserError(str(error).replace("give an image file", "give a file of annotations")) from error


def _text(path: str) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{shown(path)} is not UTF-8 text: convert it") from error


def _sentence(path: str, names: list[str], what: str) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    count = "1 box" if len(names) == 1 else f"{len(names):,} boxes"
    end = "" if what.endswith("there") else ", left out"
    return f"{count} of {shown(path)} {what}{end}: {', '.join(map(shown, names[:NAMED]))}{more}"


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text!r} is not a value")
