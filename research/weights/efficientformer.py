"""timm's EfficientFormers."""

from research.models.efficientformer import EfficientFormer
from research.weights.layouts import GRID_LAST, HEADS_OUT, JOINT_BY_HEAD
from research.weights.resnet import COUNTS, conv_norm
from research.weights.table import Drop, Line, Numbers, Table, dense, line, norm, numbered

_OURS, _THEIRS = "stage_{}_block_{}", "stages.{}.blocks.{}"
_INPUTS = [f"{_OURS}/self_attention/{name}" for name in ("query", "key", "value")]


def _with_bias(ours: str, conv: str, norm: str) -> list[Line]:
    return [*conv_norm(ours, conv, norm), line(f"{ours}/conv/bias", f"{conv}.bias")]


_POOLING = (
    line(f"{_OURS}/pooling_scale", f"{_THEIRS}.ls1.gamma"),
    *_with_bias(f"{_OURS}/up", f"{_THEIRS}.mlp.fc1", f"{_THEIRS}.mlp.norm1"),
    *_with_bias(f"{_OURS}/down", f"{_THEIRS}.mlp.fc2", f"{_THEIRS}.mlp.norm2"),
)
_ATTENTION = (
    *norm(f"{_OURS}/self_attention_norm", f"{_THEIRS}.norm1"),
    line(f"{_OURS}/relative_bias", f"{_THEIRS}.token_mixer.attention_biases", GRID_LAST),
    *(
        Line(tuple(f"{one}/{ours}" for one in _INPUTS), (f"{_THEIRS}.token_mixer.qkv.{theirs}",), JOINT_BY_HEAD)
        for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
    ),
    *dense(f"{_OURS}/self_attention/out", f"{_THEIRS}.token_mixer.proj", HEADS_OUT),
    line(f"{_OURS}/self_attention_scale", f"{_THEIRS}.ls1.gamma"),
    *norm(f"{_OURS}/feed_forward_norm", f"{_THEIRS}.norm2"),
    *dense(f"{_OURS}/feed_forward/up", f"{_THEIRS}.mlp.fc1"),
    *dense(f"{_OURS}/feed_forward/down", f"{_THEIRS}.mlp.fc2"),
)
_BOTH = (line(f"{_OURS}/feed_forward_scale", f"{_THEIRS}.ls2.gamma"),)


def timm(model: EfficientFormer) -> Table:
    """The table of a model: timm counts the flattening between pooling and attention as a block."""
    last, pooling = len(model.depths) - 1, model.depths[-1] - model.num_attention

    def numbers(ours: Numbers) -> Numbers:
        stage, block = ours
        return stage, block + (stage == last and block >= pooling)

    return Table(
        (
            *_with_bias("stem_0", "stem.conv1", "stem.norm1"),
            *_with_bias("stem_1", "stem.conv2", "stem.norm2"),
            *_with_bias("stage_{}_embedding", "stages.{}.downsample.conv", "stages.{}.downsample.norm"),
            *numbered(numbers, (*_POOLING, *_ATTENTION, *_BOTH)),
            *norm("norm", "norm"),
            *dense("head", "head"),
            *dense("head_distillation", "head_dist"),
        ),
        drops=(COUNTS, Drop(r".*\.attention_bias_idxs", "indices, which follow from the grid")),
    )
