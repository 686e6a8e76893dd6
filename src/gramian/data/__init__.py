"""Natural images, their whitening, and patches."""

from gramian.data.images import (
    HELD_OUT_NAMES,
    GrayImage,
    ImageFolder,
    ImageSplit,
    load_folder,
    shipped_images,
    split_held_out,
)
from gramian.data.patches import PatchSampler, image_to_patches, patches_to_image
from gramian.data.whitening import FourierWhitening, ZCAWhitening

__all__ = [
    "HELD_OUT_NAMES",
    "FourierWhitening",
    "GrayImage",
    "ImageFolder",
    "ImageSplit",
    "PatchSampler",
    "ZCAWhitening",
    "image_to_patches",
    "load_folder",
    "patches_to_image",
    "shipped_images",
    "split_held_out",
]
