"""timm's ResNets, and transformers', which are backbones."""

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


def backbone(model: ResNet, ours: str, theirs: str) -> list[Line]:
    """The lines of transformers' ResNet within another model; both sides' names begin so."""
    block, their_block = f"{ours}/{_OURS}", f"{theirs}.encoder.stages.{{}}.layers.{{}}"
    layers = {f"layer.{index}": name for index, name in enumerate(_LAYERS[model.bottleneck])} | {"shortcut": "shortcut"}
    lines = _their_conv_norm(f"{ours}/stem", f"{theirs}.embedder.embedder")
    for their_name, name in layers.items():
        lines += _their_conv_norm(f"{block}/{name}", f"{their_block}.{their_name}")
    return lines


def _their_conv_norm(ours: str, theirs: str) -> list[Line]:
    return conv_norm(ours, f"{theirs}.convolution", f"{theirs}.normalization")


def spelt_as_timm(theirs: str) -> tuple[tuple[str, str], ...]:
    """Spellings of such a backbone that is timm's ResNet, of four stages, in names that begin so (an expression)."""
    blocks = rf"({theirs}\.encoder\.stages\.\d+\.layers\.\d+)"
    layers = [
        (rf"{blocks}\.{kind}{number}\.", rf"\1.layer.{number - 1}.{name}.")
        for number in range(1, 4)
        for kind, name in (("conv", "convolution"), ("bn", "normalization"))
    ]
    return (
        (rf"({theirs})\.conv1\.", r"\1.embedder.embedder.convolution."),
        (rf"({theirs})\.bn1\.", r"\1.embedder.embedder.normalization."),
        *((rf"({theirs})\.layer{stage + 1}\.", rf"\1.encoder.stages.{stage}.layers.") for stage in range(4)),
        *layers,
        (rf"{blocks}\.downsample\.0\.", r"\1.shortcut.convolution."),
        (rf"{blocks}\.downsample\.1\.", r"\1.shortcut.normalization."),
    )
