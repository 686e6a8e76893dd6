"""Learn dictionaries from pictures, and encode pictures with them.

`gramian.images.samples` has pictures, whitening and patches; `gramian.images.evaluation` has measurements of atoms.
"""

from gramian.errors import needs_extra

with needs_extra("gramian.images", "coding"):
    from gramian.images.dictionary import Dictionary, load_dictionary, save_dictionary
    from gramian.images.encoding import EncodedPicture, decode_picture, encode_picture, load_codes, save_codes
    from gramian.images.run import LearningRun, RunSettings
    from gramian.images.samples import load_images, shipped_images

__all__ = [
    "Dictionary",
    "EncodedPicture",
    "LearningRun",
    "RunSettings",
    "decode_picture",
    "encode_picture",
    "load_codes",
    "load_dictionary",
    "load_images",
    "save_codes",
    "save_dictionary",
    "shipped_images",
]
