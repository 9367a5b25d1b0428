"""What tasks on images with captions share: the vocabulary, captions as tokens, and the arrays of both."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from research.data.captioned_images import CaptionedImages, CaptionTexts
from research.data.images import LabelledImages
from research.data.rows import Rows
from research.data.source import Mixed
from research.data.text import Ragged
from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.data.transforms.photo import PhotoAugmentation
from research.errors import UserError
from research.ranges import Size
from research.tasks.images import ImageTask
from research.tasks.task import PREPARED, Example
from research.tasks.vocabulary import padding_of, remarks_on, show_tokens, token_ids, vocabulary_of_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionTask(ImageTask):
    """A task on {"image", "caption"}.

    length: tokens of a caption, with the marks of its start and end; longer captions are cut. photo: crops and changes
    for photographs, which bring all images to one size. Changes that mirror images make captions with sides wrong.
    """

    tokenizer: Tokenizer
    length: Size = 32
    photo: PhotoAugmentation | None = None
    vocabulary: TrainedTokenizer = PREPARED

    pads_with_end: ClassVar[bool] = False
    """Whether the mark that ends a caption may also be its padding."""

    @property
    def pad(self) -> int:
        return padding_of(self.vocabulary)

    def prepare(self, source: Any, folder: Path) -> Self:
        if self.length < 3:
            raise UserError(f"task.length {self.length} leaves no room for a word between two marks: use 3 or more")
        texts = types.SimpleNamespace(examples=lambda split: self._texts_of(source.examples(split)))
        vocabulary = vocabulary_of_run(self.tokenizer, texts, ("caption",), folder, pads_with_end=self.pads_with_end)
        return dataclasses.replace(super().prepare(source, folder), vocabulary=vocabulary)

    def token_ids(self) -> Mapping[str, Mapping[str, int]]:
        return token_ids(self)

    def remarks(self, example: Example) -> list[str]:
        return remarks_on(self.caption(example), "caption", self.vocabulary, self.length - self.marks)

    @property
    def marks(self) -> int:
        """Tokens around a caption: those of its start, which SigLIP's vocabulary lacks, and of its end."""
        return 1 + (self.vocabulary.bos is not None)

    def fixed_examples(self, texts: Sequence[str]) -> list[Example]:
        (image,) = super().fixed_examples(texts)
        return [{**image, "caption": text} for text in texts]

    def images(self, examples: Sequence[Example], *, train: bool, seed: int) -> LabelledImages:
        """The examples' images as training or evaluation sees them."""
        return LabelledImages(examples, self.augmentation if train else None, seed, photo=self.photo)

    def image_inputs(self, batch: Mapping[str, Any]) -> Any:
        return self.normalised(batch["image"])

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [texts, length]: start if there is one, tokens, end, PAD. Raises UserError for a text without words."""
        for text in texts:
            if not text.strip():
                raise UserError("a caption is empty: write one, or remove the image")
        start, end = [self.vocabulary.start_token] * (self.marks - 1), self.vocabulary.end_token
        ids = self.vocabulary.encode_batch(list(texts))
        rows = Ragged.from_lists([[*start, *each[: self.length - self.marks], end] for each in ids])
        return rows.padded(np.arange(len(texts)), self.length, self.pad)

    def named(self, row: np.ndarray) -> list[str]:
        """The tokens of a row of `tokens`, without its padding."""
        count = row.tolist().index(self.vocabulary.end_token) + 1
        return [self.vocabulary.id_to_token(int(token)) for token in row[:count]]

    def captioned(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        """Rows with `image` and `caption`, int32 [batch, length]."""
        return CaptionedImages(self.images(examples, train=train, seed=seed), self._captions)

    def caption(self, example: Example) -> str:
        """The caption of an example. Raises UserError where there is none."""
        if "caption" not in example:
            raise UserError("the data have no captions: use data such as captions or scenes")
        return example["caption"]

    def _texts_of(self, examples: Sequence[Any]) -> Sequence[Any]:
        """What a vocabulary is made of."""
        if isinstance(examples, Mixed):
            return Mixed(tuple(self._texts_of(part) for part in examples.parts), None)
        return CaptionTexts(examples, self.caption)

    def _captions(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        return {"caption": self.tokens([self.caption(example) for example in examples])}

    def reference(self, example: Example) -> str | None:
        return example.get("caption")

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        return f"caption: {show_tokens(self.vocabulary, batch['caption'][row], self.pad)}\n{super().show(batch, row)}"
