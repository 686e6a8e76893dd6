"""Natural images, their whitening, and patches."""

from gramian.errors import needs_extra

with needs_extra("gramian.data", "coding"):
    from gramian.data.images import (
        HELD_OUT_NAMES,
        ImageSplit,
        LoadedImages,
        Picture,
        load_images,
        shipped_images,
        split_held_out,
    )
    from gramian.data.patches import PatchSampler, image_to_patches, patches_to_image
    from gramian.data.preparation import WHITENINGS, Preparation, Samples
    from gramian.data.whitening import FourierWhitening, ZCAWhitening

__all__ = [
    "HELD_OUT_NAMES",
    "WHITENINGS",
    "FourierWhitening",
    "ImageSplit",
    "LoadedImages",
    "PatchSampler",
    "Picture",
    "Preparation",
    "Samples",
    "ZCAWhitening",
    "image_to_patches",
    "load_images",
    "patches_to_image",
    "shipped_images",
    "split_held_out",
]
