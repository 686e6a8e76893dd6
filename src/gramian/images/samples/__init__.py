"""Load natural images, whiten them, and draw patches."""

from gramian.errors import needs_extra

with needs_extra("gramian.images", "coding"):
    from gramian.images.samples.images import (
        HELD_OUT_NAMES,
        ImageSplit,
        LoadedImages,
        Picture,
        load_images,
        shipped_images,
        split_held_out,
    )
    from gramian.images.samples.patches import PatchSampler, image_to_patches, patches_to_image
    from gramian.images.samples.preparation import WHITENINGS, Preparation, Samples
    from gramian.images.samples.whitening import FourierWhitening, ZCAWhitening

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
