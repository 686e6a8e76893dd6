"""Learn dictionaries from pictures: samples, runs, measurements of atoms, and the page of a run."""

from gramian.errors import needs_extra

with needs_extra("gramian.images", "coding"):
    from gramian.images.dictionary import Dictionary, load_dictionary, save_dictionary
    from gramian.images.encoding import EncodedPicture, decode_picture, encode_picture, load_codes, save_codes
    from gramian.images.evaluation.gabor import GaborFit, fit_gabor
    from gramian.images.evaluation.gabor_agreement import GaborAgreement, GaborSpread, group_agreement
    from gramian.images.evaluation.invariance import (
        Control,
        PhaseResponse,
        gratings,
        phase_response,
        random_groups,
        shift_control,
    )
    from gramian.images.run import LearningRun, RunSettings
    from gramian.images.samples import (
        HELD_OUT_NAMES,
        WHITENINGS,
        FourierWhitening,
        ImageSplit,
        LoadedImages,
        PatchSampler,
        Picture,
        Preparation,
        Samples,
        ZCAWhitening,
        image_to_patches,
        load_images,
        patches_to_image,
        shipped_images,
        split_held_out,
    )

__all__ = [
    "HELD_OUT_NAMES",
    "WHITENINGS",
    "Control",
    "Dictionary",
    "EncodedPicture",
    "FourierWhitening",
    "GaborAgreement",
    "GaborFit",
    "GaborSpread",
    "ImageSplit",
    "LearningRun",
    "LoadedImages",
    "PatchSampler",
    "PhaseResponse",
    "Picture",
    "Preparation",
    "RunSettings",
    "Samples",
    "ZCAWhitening",
    "decode_picture",
    "encode_picture",
    "fit_gabor",
    "gratings",
    "group_agreement",
    "image_to_patches",
    "load_codes",
    "load_dictionary",
    "load_images",
    "patches_to_image",
    "phase_response",
    "random_groups",
    "save_codes",
    "save_dictionary",
    "shift_control",
    "shipped_images",
    "split_held_out",
]
