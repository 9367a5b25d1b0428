"""The older place of `research.data.transforms.photo.PhotoAugmentation`."""

from research.data.transforms.photo import PhotoAugmentation

__all__ = ["PhotoAugmentation"]
