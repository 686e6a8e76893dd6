"""The code that a report prints: how to use the dictionary beside it, for the very run."""

from gramian.report.record import LearningRecord

__all__ = ["sample_code"]

_CODE = """from pathlib import Path

from gramian.coding import as_method, decode_picture, encode_picture, load_dictionary
from gramian.data import {loader}

dictionary = load_dictionary(Path("dictionary.safetensors"))  # dictionary.phi is Φ[l, m, n] = {shape}
picture = {pictures}[0]  # or any other{kind}

# Whitened, cut into patches, scaled and coded as in the run: λ = {lam:.4g}, prior {prior}, by {infer}.
encoded = encode_picture(picture, dictionary)
restored = decode_picture(encoded, dictionary)

# The same, one step after the other.
samples = dictionary.preparation.samples(picture.pixels, stride={stride})
method = as_method(dictionary.infer)
codes = method(samples.x, dictionary.phi, lam=dictionary.lam, prior=dictionary.prior, max_iter=1000, tol=1e-3).codes
"""


def sample_code(record: LearningRecord) -> str:
    """Give Python that runs in the folder of the run, and codes a picture as the run does.

    Args:
        record: What was measured.
    """
    option = "colour=True" if record.channels == 3 else ""
    if record.images is None:
        loader, pictures = "shipped_images", f"shipped_images({option})"
    else:
        arguments = ", ".join(filter(None, (f"Path({record.images!r})", option)))
        loader, pictures = "load_images", f"load_images({arguments}).images"
    return _CODE.format(
        loader=loader,
        pictures=pictures,
        kind=" in colours" if record.channels == 3 else "",
        shape=list(record.phi.shape),
        lam=record.lam,
        prior=record.settings["prior"],
        infer=record.settings["infer"],
        stride=max(1, record.patch // 2),
    )
