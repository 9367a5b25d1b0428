"""What tasks, pictures and probes may ask of a model beyond calling it.

Every model is called as `model(*inputs, train=False)` and gives float32 logits: [batch, classes] of images, [batch,
length, vocabulary] of the token that follows each token. Image classifiers with `num_classes=0` have no head and give
their pooled features, [batch, features], in the compute dtype. Detectors give logits and boxes of every decoder layer.

The rest is optional. A class below is one thing that a model may offer; a model has it by having the members, without
inheriting anything, and `isinstance(model, Levels)` asks for it.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int


@runtime_checkable
class Levels(Protocol):
    """An image backbone: feature maps from fine to coarse, for detection, segmentation and the like."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels on a side of what one position of each level stands for."""

    def levels(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> tuple[Float[Array, "batch _ _ _"], ...]:
        """A map [batch, rows, columns, channels] for each stride; the last is what the head pools, before pooling.

        Rows and columns are those of the image over the stride, rounded up where the model takes such images.
        """


@runtime_checkable
class FeatureMap(Protocol):
    """A model whose logits come from the mean of one map: Grad-CAM puts another in its place."""

    def feature_map(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns features"]:
        """The last level, which `__call__` itself must get by calling this method."""


@runtime_checkable
class PooledFeatures(Protocol):
    """An image model that is not a classifier, so that `num_classes=0` cannot be asked of it."""

    def pooled_features(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch features"]:
        """One vector for each image, as probes measure it."""


@runtime_checkable
class Heads(Protocol):
    """A classifier with more than one head, the last of which may learn from a teacher."""

    def all_heads(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> tuple[Float[Array, "batch outputs"], ...]:
        """The logits of every head apart; the model's answer is their mean."""


@runtime_checkable
class Patches(Protocol):
    """An image model whose attention is over squares of pixels, which pictures lay over the image."""

    patch_size: int


@runtime_checkable
class SpecialTokens(Protocol):
    """A model of patches with tokens in front of them, such as a class token. Without this there are none."""

    @property
    def special_tokens(self) -> int:
        """How many tokens stand before the patches."""


@runtime_checkable
class States(Protocol):
    """A language model, whose loss is computed without holding all logits (`vocabulary_loss`)."""

    def features(
        self, *inputs: Any, train: bool = False
    ) -> tuple[Float[Array, "batch length width"], Float[Array, "vocab width"]]:
        """A state for each token, and the output table: their product is the logits."""


@runtime_checkable
class HiddenStates(Protocol):
    """A Transformer that gives its states behind every layer."""

    def hidden_states(self, *inputs: Any, train: bool = False) -> Float[Array, "layers batch tokens features"]:
        """The first layer's first, each after the final norm; the tokens are all those that the layers see."""


@runtime_checkable
class TextEncoder(Protocol):
    """A model of text whose states serve tasks that bring a head of their own (`research.models.text_head`)."""

    def text_states(
        self,
        tokens: Int[Array, "batch length"],
        valid: Bool[Array, "batch length"] | None = None,
        segments: Int[Array, "batch length"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch length width"]:
        """The last layer's states.

        valid: which tokens are not padding, which stands behind them. segments: 0, and 1 for the second of two texts.
        """


@runtime_checkable
class SeparateTexts(Protocol):
    """A language model that keeps several texts of a row apart."""

    def separate_features(
        self, tokens: Int[Array, "batch length"], segments: Int[Array, "batch length"], *, train: bool = False
    ) -> tuple[Float[Array, "batch length width"], Float[Array, "vocab width"]]:
        """As `States.features`; a token sees those of its own segment alone, in which positions count from 0."""


@runtime_checkable
class WithHead(Protocol):
    """A model that is another one with a new layer, whose own parameters keep their paths.

    outputs: numbers that the layer gives. pool: how it makes one vector of many states, None where it reads each.
    """

    body: Any
    outputs: int
    pool: str | None
