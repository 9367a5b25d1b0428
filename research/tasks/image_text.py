"""Images and their captions brought together: CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.captioned_images import CaptionedImages
from research.data.rows import Rows
from research.errors import UserError
from research.files import write_json
from research.metrics.retrieval import OF_LABELS, OF_TWINS, ImageTextScorer
from research.models.two_towers import TwoTowers, normalised
from research.ranges import ANSWERING, Size
from research.tasks.captions import CaptionTask
from research.tasks.losses import weighted
from research.tasks.pair_losses import Kind, encoded, number_of_chunks, pair_losses
from research.tasks.task import PATCHES, Apply, Example, Metrics, Scorer, View
from research.weights.preprocessing import FILE as PREPROCESSOR
from research.weights.preprocessing import described_photo, photo_written
from research.weights.vocabularies import CONFIG, texts_of, texts_written

CLASSES_AT_ONCE = 64
LOOKED_AT = 100
"""Examples of which one has to have a twin, where a score of twins is asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageText(CaptionTask):
    """{"image", "caption"}; of all captions of the batch each image has to find its own, and the other way round.

    Loss and `accuracy`, how often an image's own caption is the nearest of its batch, depend on the size of the batch,
    and on nothing else: they are those of the whole batch however many devices it lies on. The scores do not depend on
    it (`ImageTextScorer`).

    objective: the loss, see `pair_losses`. SigLIP also has a `bias` of the model.
    chunk: examples that are encoded at a time; memory is that of their activations and of their logits with the batch.
        Loss and gradients do not change, for twice the forward computation. Dropout is not drawn anew for each chunk,
        and is refused with it.
    classes: an answer is the nearest of these, by the mean of the vectors of its prompts (section 3.1.4 of the paper);
        without any it is the image's vector. templates: of the prompts, with {} in the place of the class. Of data
        with labels, these are numbers of `classes`, and a caption is the class in the first template.
    """

    objective: Kind = "clip"
    chunk: Size | None = None
    classes: Annotated[tuple[str, ...], ANSWERING] = ()
    templates: Annotated[tuple[str, ...], ANSWERING] = ("{}",)

    whole_batch: ClassVar[bool] = True
    compares: ClassVar[bool] = True
    pads_with_end: ClassVar[bool] = True

    def __post_init__(self):
        if not self.templates:
            raise UserError("task.templates is empty: give one or more, such as 'a photo of {}'")
        for template in self.templates:
            if "{}" not in template:
                raise UserError(f"task.templates {template!r} has no {{}}: write it where the class stands")
        for number, name in enumerate(self.classes, 1):
            if not name.strip():
                raise UserError(f"class {number} of task.classes is empty: name it, or leave it out")

    def model_fields(self) -> dict[str, Any]:
        return {"text.vocab_size": self.vocabulary.vocab_size}

    def with_head(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, TwoTowers):
            raise UserError(f"model {type(model).__name__} is not made of two towers: use two_towers")
        most = getattr(model.text, "max_length", self.length) - getattr(model.text, "first_position", 0)
        if self.length > most:
            raise UserError(f"task.length {self.length} exceeds the {most} positions of model.text: use at most that")
        for name, tower in (("image", model.image), ("text", model.text)):
            for field in ("dropout", "attention_dropout", "stochastic_depth"):
                if self.chunk is not None and getattr(tower, field, 0):
                    raise UserError(f"model.{name}.{field} is not drawn anew for each task.chunk: set it to 0")
        return model

    @classmethod
    def from_published(cls, published: Any, folder: Path) -> dict[str, Any]:
        text = published.model.text
        vocabulary = texts_of(published.folder, published.config, text.vocab_size)
        vocabulary.save(folder / "tokenizer.json")
        write_json(folder / "image.json", [None, None, 3])
        fields = described_photo(published.folder, published.image_size)
        fields["photo"]["flip"] = False  # what is left of what
        fields |= {"length": text.max_length, "objective": "clip" if published.model.bias is None else "siglip"}
        fields["tokenizer"] = {"kind": "word"}  # the run's own is there already
        return {"task": fields, "data": {"name": "captions", "path": "my_captions.tsv"}}

    def published(self, model: Any) -> dict[str, Any]:
        files = {CONFIG: texts_written(self.vocabulary, model)}
        kind = "CLIPImageProcessor" if model.projected == "both" else "SiglipImageProcessor"
        return files if self.photo is None else files | {PREPROCESSOR: photo_written(self, kind)}

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        return self.captioned(examples, train=train, seed=seed)

    def caption(self, example: Example) -> str:
        if "caption" in example:
            return example["caption"]
        if "label" in example and self.classes:
            return self.templates[0].replace("{}", self._class_of(example))
        raise UserError("the data have no captions: for images with labels, name their classes by task.classes")

    def _class_of(self, example: Example) -> str:
        label = int(example["label"])
        if not 0 <= label < len(self.classes):
            raise UserError(f"label {label} has no name among {len(self.classes)} task.classes: give all, in order")
        return self.classes[label]

    def questions(self, examples: Sequence[Example]) -> Rows:
        """With the captions, and their twins, where the examples have any."""
        images = self.images(examples, train=False, seed=0)
        first = examples[0] if len(examples) else {}
        return CaptionedImages(images, functools.partial(self._texts, [n for n in ("caption", "twin") if n in first]))

    def _texts(self, names: Sequence[str], examples: Sequence[Example]) -> dict[str, np.ndarray]:
        # A single picture has no relation to swap: its caption stands for the twin, which nobody looks at.
        return {name: self.tokens([each[name] or each["caption"] for each in examples]) for name in names}

    def model_inputs(self, batch: Mapping[str, Any]) -> tuple:
        return self.normalised(batch["image"]), batch["caption"], self.valid(batch["caption"])

    def valid(self, tokens: Any) -> Any:
        """Which tokens are a caption's, bool [batch, length]: all up to its first end, which may be its padding too."""
        ends = tokens == self.vocabulary.end_token
        return ends.cumsum(axis=1) - ends == 0

    def num_tokens(self, batch: Mapping[str, Any]) -> int | None:
        return batch["caption"].size if "caption" in batch else None

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        count = number_of_chunks(len(batch["image"]), self.chunk)
        texts, _ = encoded(self._text_encoder(apply), (batch["caption"],), count)
        images, updates = encoded(
            lambda pixels: apply(self.normalised(pixels), method="image_vectors"), (batch["image"],), count
        )
        (scale, bias), _ = apply(method="scale_and_bias")
        weights = batch["weight"]
        losses, found = pair_losses(self.objective, images, texts, scale, bias, weights, count)
        metrics = {
            "loss": weighted(losses, weights),
            "accuracy": weighted(found.astype(jnp.float32), weights),
            "scale": (scale * weights.sum(), weights.sum()),
        }
        return metrics, updates

    def _text_encoder(self, apply: Callable[..., Any]) -> Callable[..., Any]:
        return lambda tokens: apply(tokens, self.valid(tokens), method="text_vectors")

    def predict(
        self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Vectors, float32 [batch, width], of images and, where they are there, of captions and twins; with classes,
        their probabilities, float32 [batch, classes]: among all of them, or with "siglip" of each alone."""
        run: Any = functools.partial(model.apply, variables)
        encode = self._text_encoder(run)
        answers = {"vector": run(self.normalised(batch["image"]), method="image_vectors")}
        answers |= {f"{name}_vector": encode(batch[name]) for name in ("caption", "twin") if name in batch}
        if self.classes:
            scale, bias = run(method="scale_and_bias")
            logits = scale * answers["vector"] @ self._class_vectors(encode).T + bias
            probabilities = jax.nn.softmax if self.objective == "clip" else jax.nn.sigmoid
            answers["probabilities"] = probabilities(logits)
        return answers

    def _class_vectors(self, encode: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """[classes, width]: the normalised mean of the normalised vectors of a class's prompts."""
        prompts = [template.replace("{}", name) for name in self.classes for template in self.templates]
        lengths = [len(ids) + self.marks for ids in self.vocabulary.encode_batch(prompts)]
        if max(lengths) > self.length:
            longest = prompts[int(np.argmax(lengths))]
            raise UserError(
                f"the prompt {longest!r} has {max(lengths)} tokens and task.length is {self.length}: shorten it"
            )
        tokens = self.tokens(prompts).reshape(len(self.classes), len(self.templates), self.length)
        return jax.lax.map(
            lambda each: normalised(encode(each).mean(axis=0)), jnp.asarray(tokens), batch_size=CLASSES_AT_ONCE
        )

    def answer(self, example: Example, rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """`label` and `probability` with classes, otherwise `text`, the vector's numbers; and the vectors."""
        (row,) = rows
        answer: dict[str, Any] = {name: row[name].tolist() for name in row if name.endswith("vector")}
        if not self.classes:
            return {"text": " ".join(f"{number:.6g}" for number in answer["vector"]), **answer}
        best = int(np.argmax(row["probabilities"]))
        answer |= {"label": self.classes[best], "probability": float(row["probabilities"][best])}
        return answer | ({"right": self._class_of(example)} if "label" in example else {})

    def scorer(self) -> Scorer:
        return ImageTextScorer()

    def score_names(self, examples: Sequence[Example]) -> Sequence[str]:
        first = examples[0]
        twins = "twin" in first and any(examples[number]["twin"] for number in range(min(len(examples), LOOKED_AT)))
        names = [*ImageTextScorer.of_captions] if "caption" in first else []
        return names + [*OF_TWINS] * twins + [*OF_LABELS] * ("label" in first and bool(self.classes))

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        if self.classes:
            return super().sample(example, answer)
        first = " ".join(f"{number:.3f}" for number in answer["vector"][:4])
        sample = {
            "image": self.questions([example]).first()["image"][0],
            "answer": f"{first} ... ({len(answer['vector'])} numbers)",
        }
        return sample | ({"reference": example["caption"]} if "caption" in example else {})

    def view(self, example: Example, answer: Mapping[str, Any]) -> View:
        """The image, and the text that it belongs to or was answered with, if there is one."""
        text = example.get("caption")
        if text is None and "label" in answer:
            text = self.templates[0].replace("{}", answer["label"])
        tokens = self.tokens(["-" if text is None else text])  # the text tower reads something in any case
        batch = {"image": self.questions([example]).first()["image"], "caption": tokens}
        named = {} if text is None else {"tokens": self.named(tokens[0])}
        return View(text or "an image", self.model_inputs(batch), named, sides, batch["image"][0])


def sides(path: str) -> tuple[str, str]:
    """What the queries and the keys of a tower's layer are."""
    return (PATCHES, PATCHES) if path.startswith("image/") else ("tokens", "tokens")
