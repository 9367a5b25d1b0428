"""timm's ResNets."""

from research.models.resnet import ResNet
from research.weights.layouts import CONVOLUTION
from research.weights.table import Drop, Line, Numbers, Table, batch_norm, dense, line, numbered

_OURS, _THEIRS = "stage_{}_block_{}", "layer{}.{}"
_LAYERS = {False: {"spatial": "1", "last": "2"}, True: {"reduce": "1", "spatial": "2", "last": "3"}}
COUNTS = Drop(r".*\.num_batches_tracked", "counts of batches, which our moving averages do not need")


def _from_one(numbers: Numbers) -> Numbers:
    return numbers[0] + 1, numbers[1]


def conv_norm(ours: str, conv: str, norm: str) -> list[Line]:
    """A convolution without a bias and its batch normalisation."""
    return [line(f"{ours}/conv/kernel", f"{conv}.weight", CONVOLUTION), *batch_norm(f"{ours}/norm", norm)]


def timm(model: ResNet) -> Table:
    """The table of a ResNet of basic or of bottleneck blocks."""
    lines = conv_norm(f"{_OURS}/shortcut", f"{_THEIRS}.downsample.0", f"{_THEIRS}.downsample.1")
    for ours, number in _LAYERS[model.bottleneck].items():
        lines += conv_norm(f"{_OURS}/{ours}", f"{_THEIRS}.conv{number}", f"{_THEIRS}.bn{number}")
    return Table(
        (*conv_norm("stem", "conv1", "bn1"), *numbered(_from_one, lines), *dense("head", "fc")), drops=(COUNTS,)
    )
