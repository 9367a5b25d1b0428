"""What tasks on images share: pixels as the model takes them, a person's image as an example, and what is shown."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from research.data.image_files import decode_image, read_image_file
from research.data.transforms.geometry import Augmentation
from research.errors import UserError
from research.files import Unreadable, fits, read_json, read_or_set_aside, write_json
from research.ranges import Number, Positive
from research.tasks.task import PREPARED, Example, Task, View

Colours = Number | tuple[Number, Number, Number]
"""One number for all channels, or one for each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """A task on images. Pixels enter the model as (pixel / 255 - mean) / deviation, for all channels or for each.

    augmentation: random changes of training images. image_shape: height, width and channels that the data's images
    have, None where they vary; found by `prepare`.
    """

    takes_images: ClassVar[bool] = True

    mean: Colours = 0.5
    deviation: Positive | tuple[Positive, Positive, Positive] = 0.5
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    image_shape: tuple[int | None, int | None, int] = PREPARED

    def prepare(self, source: Any, folder: Path) -> Self:
        if self.image_shape is not None:
            raise UserError("task.image_shape is found in the data: leave it out")
        path = folder / "image.json"
        shape = _checked(read_or_set_aside(path, list[int | None])) or self._shape_before(folder)
        if shape is None:
            shape = list(source.image_shape if self.takes_any_size else source.examples("train")[0]["image"].shape)
            if jax.process_index() == 0:
                write_json(path, shape)
        return dataclasses.replace(self, image_shape=tuple(shape))

    @property
    def takes_any_size(self) -> bool:
        """Whether images of any size become what the model takes; otherwise all have that of the training images."""
        return getattr(self, "photo", None) is not None

    def _shape_before(self, folder: Path) -> list[int | None] | None:
        """The shape for a run from before there was `image.json`, None for a new run.

        It is that of the run's batches or, where images are cropped for them, the size that its config gives the data.
        """
        with contextlib.suppress(Unreadable, LookupError, TypeError):
            if not (folder / "batch.json").exists():
                return None
            if not self.takes_any_size:
                return _checked(read_json(folder / "batch.json", dict[str, list])["image"][1][1:])
            data = read_json(folder / "config.json", dict[str, Any])["data"]
            return _checked([data.get("size"), data.get("size"), 3])
        return None

    def example(self, item: Any) -> Example:
        height, width, channels = self.image_shape
        if isinstance(item, str | Path):
            size = (height, width) if height and width else None
            return {"image": decode_image(read_image_file(item), str(item), size, channels)}
        item = np.asarray(item)
        wanted = (height or item.shape[0], width or item.shape[1], channels) if item.ndim == 3 else ()
        if item.dtype != np.uint8 or item.shape != wanted:
            known = [side or "any" for side in self.image_shape]
            raise UserError(
                f"an image is {item.dtype} {list(item.shape)} and this run takes uint8 {known}: convert it, or give "
                "its file"
            )
        return {"image": item}

    def fixed_examples(self, texts: Sequence[str]) -> list[Example]:
        """One image of noise with the seed 0, as large as the model takes it."""
        task: Any = self
        size = task.size if hasattr(self, "size") else task.photo.size
        pixels = jax.random.randint(jax.random.key(0), (size, size, 3), 0, 256).astype("uint8")
        return [self.example(jax.device_get(pixels))]

    def image_input(self, kind: str, *arrays: str, **fields: Any) -> dict[str, Any]:
        """The section "input" of `standalone`, of the image and these arrays."""
        own = {"kind": kind, "shape": list(self.image_shape), "arrays": ["image", *arrays], "fills": {}}
        return own | fields

    def normalised(self, pixels: jax.Array) -> jax.Array:
        """uint8 [..., channels] as the model takes it, float32."""
        mean, deviation = (self._by_channel(name, pixels.shape[-1]) for name in ("mean", "deviation"))
        return (jnp.asarray(pixels).astype(jnp.float32) / 255 - mean) / deviation

    def _by_channel(self, name: str, channels: int) -> Any:
        value = getattr(self, name)
        if not isinstance(value, tuple):
            return value
        if len(value) != channels:
            raise UserError(f"task.{name} has {len(value)} numbers for images of {channels} channels: give one number")
        return np.array(value, np.float32)

    def model_inputs(self, batch: Mapping[str, Any]) -> tuple:
        return (self.normalised(batch["image"]),)

    def shown(self, examples: Sequence[Example], count: int) -> list[Example]:
        """Evenly spaced over the split: files may lie sorted by class."""
        picked = np.linspace(0, len(examples) - 1, min(count, len(examples))).astype(int)
        return [examples[int(index)] for index in picked]

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        image = self.questions([example]).first()["image"][0]
        sample = {"image": image, "label": answer["label"], "probability": answer["probability"]}
        reference = self.reference(example)
        return sample if reference is None else sample | {"reference": reference}

    def reference(self, example: Example) -> str | None:
        """The right answer as a person reads it, where the example has it."""
        return None

    def target(self, answer: Mapping[str, Any]) -> int | None:
        """The number of the class that was answered, where there are classes."""
        return None

    def view(self, example: Example, answer: Mapping[str, Any]) -> View | None:
        batch = self.questions([example]).first()
        title = f"{answer['label']} ({answer['probability']:.2f})"
        if (reference := self.reference(example)) is not None:
            title = f"{reference}, taken for {answer['label']} ({answer['probability']:.0%})"
        return View(title, self.model_inputs(batch), image=batch["image"][0], target=self.target(answer))

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        image = batch["image"][row]
        shades = " .:-=+*#%@"
        lines = ["".join(shades[int(pixel.mean()) * len(shades) // 256] * 2 for pixel in line) for line in image]
        header = f"image {image.shape}, pixels {image.min()}-{image.max()}"
        return "\n".join([header, *lines] if image.shape[1] <= 64 else [header])


def _checked(shape: Any) -> list[int | None] | None:
    """Height, width and channels as they can be; None for anything else."""
    if not fits(shape, list[int | None]) or len(shape) != 3 or shape[2] is None:
        return None
    return shape if all(side is None or 0 < side < 2**20 for side in shape) else None
