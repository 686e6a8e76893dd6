"""The sample code in a report, which uses the dictionary of that run."""

from gramian.images.evaluation.record import LearningRecord

__all__ = ["sample_code"]

_CODE = """from pathlib import Path

from gramian.coding import as_method
from gramian.images import decode_picture, encode_picture, load_dictionary
from gramian.images import {loader}

dictionary = load_dictionary(Path("dictionary.safetensors"))  # dictionary.phi is Φ[l, m, n] = {shape}
picture = {pictures}[0]  # or any other{kind}

# Whitened, cut into patches, scaled and encoded as in the run: λ = {lam:.4g}, prior {prior}, by {infer}.
encoded = encode_picture(picture, dictionary)
restored = decode_picture(encoded, dictionary)

# The same, step by step.
samples = dictionary.preparation.samples(picture.pixels, stride={stride})
method = as_method(dictionary.infer)
codes = method(samples.x, dictionary.phi, lam=dictionary.lam, prior=dictionary.prior, max_iter=1000, tol=1e-3).codes
"""


def sample_code(record: LearningRecord) -> str:
    """Return Python code that runs in the folder of the run and encodes a picture as the run does.

    Args:
        record: Measurements of the run.
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
