"""Model FLOPs utilisation (Chowdhery et al. 2022, appendix B): the products that a step's model asks for, over what the
devices could have computed in its time.

Counted are matrix products and convolutions, forward and backward (`cost.flops`), without what `model.remat` computes
again, but with what a loss in chunks or attention in blocks does, and with a teacher's forward pass. The peaks are
those of dense bfloat16 products by the vendors' data sheets, by the names that JAX gives the devices. Other devices,
CPUs among them, and float32, whose products take several roads, have none: no number is better than a wrong one.
"""

import jax
import jax.numpy as jnp

PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A10G": 70e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
"""FLOP/s of one device."""


def peak(device: jax.Device, compute: jnp.dtype) -> float | None:
    """FLOP/s of dense products in this dtype, or None where they are not known."""
    return PEAKS.get(device.device_kind) if compute == jnp.bfloat16 else None
