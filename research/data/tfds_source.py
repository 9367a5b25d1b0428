"""Any TensorFlow Datasets set by name, read with random access (ArrayRecord) and without TensorFlow."""

import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from research.data.image_files import image_format
from research.data.source import Example, Source, check_split
from research.data.token_store import Origin, origin_of
from research.errors import UserError
from research.ranges import AFTERWARDS, MOVED

IMAGES = {"image": "image", "label": "label"}
NAME = re.compile(r"[a-zA-Z]\w*(/[\w+-][\w+.-]*)?(:[\d*]+\.[\d*]+\.[\d*]+)?", re.ASCII)
"""NAME[/CONFIG][:VERSION]. What TFDS takes besides downloads or runs code: namespaces such as "huggingface:"."""

FEATURES = ("BBoxFeature", "ClassLabel", "Dataset", "FeaturesDict", "Image", "Scalar", "Sequence", "Tensor",
            "Text", "Translation", "TranslationVariableLanguages")  # fmt: skip
"""TFDS's own features that a data set may have: not those that give foreign bytes to ffmpeg."""
PICTURES = ("PNG", "JPEG", "GIF", "BMP")
"""What TFDS writes. Pillow would hand others to other programs."""


@dataclass(frozen=True)
class Tfds(Source):
    """A prepared TFDS data set; nothing is downloaded, and no code runs that its folder holds or names.

    dataset: name, with configuration and version if there are several ("glue/sst2:2.0.0"). data_dir: where it was
    prepared; None is TFDS's own default. train, validation, test: TFDS split expressions such as "train[:90%]"; None
    leaves the split out. keys: for each key of an example the TFDS feature it holds, for instance
    {"source": "en", "target": "de"}; bytes become str.
    """

    dataset: str
    data_dir: Annotated[str | None, MOVED] = None
    train: str = "train"
    validation: str | None = "validation"
    test: Annotated[str | None, AFTERWARDS] = "test"
    keys: dict[str, str] = field(default_factory=lambda: dict(IMAGES))

    def __post_init__(self):
        if not NAME.fullmatch(self.dataset):
            raise UserError(f"data.dataset {self.dataset!r} names no data set: use NAME[/CONFIG][:VERSION]")

    def paths(self) -> tuple[str, ...]:
        return (self.data_dir or "TFDS's own data_dir",)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in ("train", "validation", "test") if getattr(self, split) is not None)

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels, as the data set declares them."""
        height, width, channels = self._builder().info.features[self.keys["image"]].shape
        return height, width, channels or 3

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes of "label"."""
        feature = self._builder().info.features[self.keys["label"]]
        return tuple(feature.names) if hasattr(feature, "names") else ()

    def examples(self, split: str) -> Sequence[Example]:
        """The split's examples, read when indexed; a UserError if they are not there, with the command to get them."""
        check_split(split, self.splits)
        builder = self._builder()
        missing = [feature for feature in self.keys.values() if feature not in builder.info.features]
        if missing:
            features = ", ".join(sorted(builder.info.features))
            raise UserError(f"keys names {missing[0]!r}, which {self.dataset} does not have: use {features}")
        expression = getattr(self, split)
        try:
            source = builder.as_data_source(split=expression)
        except NotImplementedError as error:
            raise UserError(
                f"{self.dataset} in {builder.data_dir} is not in the ArrayRecord format: set data_dir to "
                f"another folder and run `{self._command('FOLDER')}`"
            ) from error
        except ValueError as error:
            there = ", ".join(builder.info.splits)
            raise UserError(
                f"{split} split {expression!r} is not in {self.dataset}: "
                f"use {there}, a part such as 'train[90%:]' or None"
            ) from error
        except Exception as error:  # what damaged files make of it is not documented
            raise UserError(f"{self.dataset} in {builder.data_dir} is damaged ({_short(error)}): restore it") from error
        part = {"dataset": builder.info.full_name, "split": expression, "keys": dict(self.keys)}
        files = [path for info in builder.info.splits.values() for path in info.filepaths]
        origin = origin_of(files, part, functools.partial(self.fingerprint, split))
        return _Examples(source, dict(self.keys), self.dataset, origin)

    def fingerprint(self, split: str) -> str:
        """A digest of the data set's name and version, of its features and of the split's files and their sizes."""
        check_split(split, self.splits)
        builder = self._builder()
        files = [
            (path.name, path.stat().st_size, info.shard_lengths)
            for info in builder.info.splits.values()
            for path in map(Path, info.filepaths)
            if path.exists()
        ]
        features = Path(builder.data_dir, "features.json").read_bytes()
        known = [builder.info.full_name, getattr(self, split), self.keys, files, hashlib.sha256(features).hexdigest()]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def _builder(self) -> Any:
        # Here, because only this source should cost its start-up time.
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import read_only_builder

        try:
            with _own_features():  # from the files alone: a data set's builder, which TFDS may have too, can download
                builder = read_only_builder.builder_from_files(self.dataset, data_dir=self.data_dir)
        except tfds.core.registered.DatasetNotFoundError as error:
            raise UserError(
                f"TFDS data set {self.dataset!r} is not prepared in {self.data_dir or 'the default data_dir'}: "
                f"check the name or run `{self._command(self.data_dir)}`"
            ) from error
        except UserError as error:
            raise UserError(f"TFDS data set {self.dataset!r} {error}") from error
        except Exception as error:  # what damaged files make of it is not documented
            raise UserError(f"TFDS data set {self.dataset!r} cannot be read ({_short(error)}): restore it") from error
        files = [Path(path) for info in builder.info.splits.values() for path in info.filepaths]
        outside = [path for path in files if path.parent != Path(builder.data_dir)]
        if outside:
            raise UserError(f"TFDS data set {self.dataset!r} names {outside[0]}, outside its folder: prepare it anew")
        return builder

    def _command(self, data_dir: str | None) -> str:
        # Not the `tfds` program, which needs TensorFlow whatever it is asked to do.
        arguments = f"{self.dataset!r}, data_dir={data_dir!r}, file_format='array_record'"
        return f'python -c "import tensorflow_datasets as tfds; tfds.builder({arguments}).download_and_prepare()"'


@dataclass(frozen=True)
class _Examples(Sequence[Example]):
    """A TFDS data source under the keys of the project's examples."""

    source: Sequence[Example]
    keys: dict[str, str]
    name: str
    origin: Origin | None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            features = self.source[index]
            return {key: _plain(features[feature]) for key, feature in self.keys.items()}
        except Exception as error:  # what damaged files make of it is not documented
            raise UserError(f"example {index} of {self.name} cannot be read ({_short(error)}): restore it") from error


@contextlib.contextmanager
def _own_features() -> Iterator[None]:
    """Meanwhile, TFDS makes features of its own classes alone: it would import any module that a data set names."""
    import tensorflow_datasets as tfds

    def cls_from_name(cls: type, name: str) -> type:
        found = _feature_classes().get(name)
        if found is None:
            raise UserError(
                f"has the feature {name[:100]!r}: only those of TFDS itself are read ({', '.join(FEATURES)})"
            )
        return found

    connector = tfds.features.FeatureConnector
    original = connector.__dict__["cls_from_name"]
    connector.cls_from_name = classmethod(cls_from_name)  # pyrefly: ignore[bad-assignment]
    try:
        yield
    finally:
        connector.cls_from_name = original


@functools.cache
def _feature_classes() -> dict[str, type]:
    """The classes of FEATURES by the names that files have of them."""
    import tensorflow_datasets as tfds

    class Picture(tfds.features.Image):
        def decode_example_np(self, example):
            if image_format(example) not in PICTURES:
                raise ValueError(f"it begins with {example[:8]!r}, as neither PNG, JPEG, GIF nor BMP does")
            return super().decode_example_np(example)

    found = [getattr(tfds.features, name) for name in FEATURES]
    names = {
        name: each for each in found for name in (f"{each.__module__}.{each.__name__}", *vars(each).get("ALIASES", []))
    }
    return names | {f"{tfds.features.Image.__module__}.Image": Picture}


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _plain(value):
    """Text as str and numbers as int or float, where TFDS gives bytes and numpy scalars; arrays as they are.

    Of a dict, such as the answers of SQuAD, also its lists of texts and numbers.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {name: _listed(part) for name, part in value.items()}
    return value.item() if getattr(value, "shape", None) == () else value


def _listed(value):
    several = isinstance(value, list | tuple) or getattr(value, "ndim", None) == 1
    return [_plain(part) for part in value] if several else _plain(value)
