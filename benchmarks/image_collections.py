"""Labelled images in folders, tar files and Parquet files: seconds until training can begin, and images a second.

    python -m benchmarks.image_collections FOLDER [--packed=FOLDER]

FOLDER has one sub-folder of images a class. The same images are packed in a random order into 20 tar files and 20
Parquet files, in `--packed` if given, where they are found again. Each measurement is a process of its own, with the
files in the page cache; the three kinds take turns.
"""

import argparse
import io
import json
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

FILES, TURNS, READS, ROW_GROUP = 20, 3, 2000, 1000


def main(folder: Path, packed: Path) -> None:
    """Packs what is missing, measures and prints a table."""
    kinds = {"folders": str(folder), "tar files": f"{packed}/tar", "Parquet files": f"{packed}/parquet"}
    if not packed.joinpath("parquet").exists():
        pack(folder, packed)
    found: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    for turn in range(TURNS):
        for kind, path in kinds.items():
            for kept in (*packed.glob("*/*.index"), *packed.glob("*/*.images")):
                shutil.rmtree(kept)
            command = [sys.executable, "-m", "benchmarks.image_collections", f"--one={turn}", path]
            outputs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
            (first, _), later = (json.loads(output.splitlines()[-1]) for output in outputs)
            found[kind].append([*first, *later[0], *later[1]])
            print(turn, kind, found[kind][-1], flush=True)
    print("| | first start, s | later start, s | images a second |\n|---|---|---|---|")
    for kind, turns in found.items():
        texts = [_text(sorted(values)) for values in zip(*turns, strict=True)]
        print(
            f"| {kind} |", " | ".join(f"{wall}; {cpu}" for wall, cpu in zip(texts[::2], texts[1::2], strict=True)), "|"
        )


def _text(values: list[float]) -> str:
    """The median, with the least and the most."""
    return f"{statistics.median(values):,.4g} ({values[0]:,.4g} to {values[-1]:,.4g})"


def measure(path: str, seed: int) -> None:
    """Prints the seconds to the first image, and how many of READS random ones are decoded in a second.

    Each by the clock and by the time that the processors were busy with it.
    """
    from research.data.image_folder import ImageFolder

    clocks = (time.perf_counter, time.process_time)
    start = [clock() for clock in clocks]
    source = ImageFolder(path)
    examples = source.examples("train")
    source.fingerprint("train")
    assert examples[0]["image"].ndim == 3
    ready = [clock() for clock in clocks]
    for index in random.Random(seed).sample(range(len(examples)), READS):
        examples[index]
    rates = [READS / (clock() - before) for clock, before in zip(clocks, ready, strict=True)]
    print(json.dumps([[after - before for after, before in zip(ready, start, strict=True)], rates]))


def pack(folder: Path, packed: Path) -> None:
    """The images of a folder as tar and Parquet files."""
    import pyarrow as pa
    from pyarrow import parquet

    images = sorted(folder.glob("*/*"))
    random.Random(0).shuffle(images)
    names = sorted({image.parent.name for image in images})
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    columns = {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()}
    schema = pa.schema(columns, {"huggingface": json.dumps({"info": {"features": features}})})
    for kind in ("tar", "parquet"):
        packed.joinpath(kind).mkdir(parents=True)
    for number in range(FILES):
        rows = []
        with tarfile.open(packed / "tar" / f"train-{number:05}.tar", "w") as tar:
            for place, image in enumerate(images[number::FILES]):
                content, label = image.read_bytes(), image.parent.name
                for suffix, part in ((image.suffix, content), (".cls", label.encode())):
                    member = tarfile.TarInfo(f"{place:07}{suffix}")
                    member.size = len(part)
                    tar.addfile(member, io.BytesIO(part))
                rows.append({"image": {"bytes": content, "path": image.name}, "label": names.index(label)})
        table = pa.Table.from_pylist(rows, schema)
        parquet.write_table(table, packed / "parquet" / f"train-{number:05}.parquet", row_group_size=ROW_GROUP)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--packed", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        measure(str(options.folder), options.one)
    else:
        with tempfile.TemporaryDirectory() as own:
            main(options.folder, options.packed or Path(own) / "packed")
