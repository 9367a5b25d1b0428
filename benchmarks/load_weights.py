"""Time and memory of loading published weights of 304 million parameters, on one device and on a mesh of eight.

    python benchmarks/load_weights.py [--devices=8] [--scan]

Writes a ViT-L/16 of random numbers in timm's names (1.2 GB) into a temporary folder, and loads it as
`experiments.weights import` does: array by array, each with its sharding. Prints the peak of the process's memory
beyond what it had before, as a multiple of the file, and the time beside that of reading the same bytes.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

ARCHITECTURE = "vit_large_patch16_224"


def main(devices: int, scan: bool) -> None:
    """The command."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    import jax  # after the number of devices is set
    from safetensors.numpy import save_file

    from research.parallel.mesh import MeshShape, make_mesh
    from research.parallel.sharding import with_shardings
    from research.weights import timm
    from research.weights.families import TIMM
    from research.weights.match import check, read, shapes_of
    from research.weights.place import placed
    from research.weights.published import built, model_inputs, read_published

    with tempfile.TemporaryDirectory() as folder:
        source, config = Path(folder), {"architecture": ARCHITECTURE, "num_classes": 1000}
        name, fields = timm.fields_of(config)
        model = built(name, fields)
        inputs = model_inputs(model, 224)
        (table,) = TIMM[type(model)](model)
        random = np.random.default_rng(0)
        arrays = {
            one: random.standard_normal(shape, np.float32)
            for entry in table.entries(shapes_of(model, inputs))
            for one, shape in zip(entry.theirs, entry.their_shapes, strict=True)
        }
        save_file(arrays, source / "model.safetensors")
        (source / "config.json").write_text(json.dumps(config))
        del arrays
        size = (source / "model.safetensors").stat().st_size

        start = time.perf_counter()
        with (source / "model.safetensors").open("rb", buffering=0) as file:
            buffer = bytearray(2**24)
            while file.readinto(buffer):
                pass
        reading = time.perf_counter() - start

        mesh = make_mesh(MeshShape(data=1, fsdp=devices))
        model = model.clone(scan=scan)
        abstract = dict(jax.eval_shape(model.init, jax.random.key(0), *inputs))
        abstract["params"] = with_shardings(abstract["params"], abstract["params"], mesh, {})
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        start = time.perf_counter()
        published = read_published(source)
        check(published.match, folder)
        variables = jax.block_until_ready(placed(read(published.match, published.arrays), abstract))
        seconds = time.perf_counter() - start
        peak = _memory("VmHWM") - before
        total = sum(leaf.size for leaf in jax.tree.leaves(variables))
        held = [sum(s.data.nbytes for leaf in jax.tree.leaves(variables) for s in leaf.addressable_shards
                    if s.device == device) for device in jax.devices()]  # fmt: skip
        layers = "scanned" if scan else "single"
        print(f"{total:,} parameters, file {size / 1e9:.3f} GB, {devices} devices, {layers} layers")
        print(f"peak memory {peak / size:.2f} times the file, {seconds:.2f} s; reading the bytes {reading:.2f} s")
        print(f"largest part on one device: {max(held) / size:.3f} of the file")


def _memory(name: str) -> int:
    """Bytes of this process by a name in /proc/self/status."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--scan", action="store_true")
    arguments = parser.parse_args()
    main(arguments.devices, arguments.scan)
