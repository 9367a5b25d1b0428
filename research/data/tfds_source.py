"""Any TensorFlow Datasets set by name, read with random access (ArrayRecord) and without TensorFlow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from research.data.source import Example, Source, check_split
from research.errors import UserError
from research.ranges import AFTERWARDS

IMAGES = {"image": "image", "label": "label"}


@dataclass(frozen=True)
class Tfds(Source):
    """A prepared TFDS data set; nothing is downloaded.

    dataset: name, with configuration and version if there are several ("glue/sst2:2.0.0"). data_dir: where it was
    prepared; None is TFDS's own default. train, validation, test: TFDS split expressions such as "train[:90%]"; None
    leaves the split out. keys: for each key of an example the TFDS feature it holds, for instance
    {"source": "en", "target": "de"}; bytes become str.
    """

    dataset: str
    data_dir: str | None = None
    train: str = "train"
    validation: str | None = "validation"
    test: Annotated[str | None, AFTERWARDS] = "test"
    keys: dict[str, str] = field(default_factory=lambda: dict(IMAGES))

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in ("train", "validation", "test") if getattr(self, split) is not None)

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
        return _Examples(source, dict(self.keys))

    def _builder(self) -> Any:
        # Here, because only this source should cost their start-up time; TFDS finds builders of imported packages only.
        import tensorflow_datasets as tfds
        import tensorflow_datasets.text
        import tensorflow_datasets.translate

        try:
            builder = tfds.builder(self.dataset, data_dir=self.data_dir)
        except tfds.core.registered.DatasetNotFoundError:
            builder = None
        if builder is None or not builder.is_prepared():
            raise UserError(
                f"TFDS data set {self.dataset!r} is not prepared in {self.data_dir or 'the default data_dir'}: "
                f"check the name or run `{self._command(self.data_dir)}`"
            )
        return builder

    def _command(self, data_dir: str | None) -> str:
        # Not the `tfds` program, which needs TensorFlow whatever it is asked to do.
        arguments = f"{self.dataset!r}, data_dir={data_dir!r}, file_format='array_record'"
        return f'python -c "import tensorflow_datasets as tfds; tfds.builder({arguments}).download_and_prepare()"'


@dataclass(frozen=True)
class _Examples(Sequence):
    """A TFDS data source under the keys of the project's examples."""

    source: Sequence[Example]
    keys: dict[str, str]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        features = self.source[index]
        return {key: _plain(features[feature]) for key, feature in self.keys.items()}


def _plain(value):
    """Text as str and numbers as int or float, where TFDS gives bytes and numpy scalars; arrays as they are."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value.item() if getattr(value, "shape", None) == () else value
