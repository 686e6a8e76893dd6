"""Files of additive factor analysers, in the safetensors format of dictionary files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from gramian.coding.factors.parameters import FactorParameters
from gramian.coding.files.checksum import read_checked, write_checked
from gramian.coding.files.dictionary import LAYOUT, StoredParts
from gramian.errors import RunError
from gramian.typing import Phi

__all__ = ["FactorModel", "factor_model", "load_factors", "save_factors"]

_FORMAT = "gramian-factors-1"
_VALUES = ("noise", "scale", "samples", "steps", "options")
_OPTIONS = (int, float, str, bool)


@dataclass(frozen=True)
class FactorModel:
    """What a file stores: the parameters in original units, and the options of the estimator."""

    phi: Phi
    pi: Float[Tensor, " m"]
    variances: Float[Tensor, "m n"]
    mean: Float[Tensor, " l"]
    noise: float
    scale: float
    samples: int
    steps: int
    options: dict[str, Any]

    @property
    def parameters(self) -> FactorParameters:
        """The parameters of standardised samples."""
        return FactorParameters(self.phi, self.pi, self.variances / self.scale**2, self.noise / self.scale**2)


def factor_model(
    tensors: dict[str, Tensor], numbers: tuple[float, float, int, int], *, used: int, options: dict[str, Any]
) -> FactorModel:
    """Collect the first `used` groups of `phi`, `pi` and `variances`, the `mean`, noise, scale, samples and steps."""
    noise, scale, samples, steps = numbers
    return FactorModel(
        phi=tensors["phi"][:, :used].cpu(),
        pi=tensors["pi"][:used],
        variances=tensors["variances"][:used],
        mean=tensors["mean"],
        noise=noise,
        scale=scale,
        samples=samples,
        steps=steps,
        options=options,
    )


def save_factors(path: Path, model: FactorModel) -> None:
    """Write a model atomically.

    Raises:
        RunError: If the file cannot be written.
    """
    tensors = {name: getattr(model, name) for name in ("phi", "pi", "variances", "mean")}
    values = {name: json.dumps(getattr(model, name)) for name in _VALUES}
    write_checked(path, tensors, {"format": _FORMAT, "layout": LAYOUT, **values})


def load_factors(path: Path) -> FactorModel:
    """Read a model.

    Raises:
        RunError: If the file does not exist, or is not a complete file of this format.
    """
    known = ("format", "layout", *_VALUES)
    read = read_checked(path, kind="factor", form=_FORMAT, command="AdditiveFactorAnalyzers.save", known=known)
    parts = StoredParts(path, *read)
    phi = parts.tensors.get("phi")
    if phi is None or phi.ndim != 3:
        raise RunError(f"{path} must hold phi[l, m, n]; got {'none' if phi is None else list(phi.shape)}")
    l, m, n = phi.shape  # noqa: E741
    options = parts.value("options")
    if not isinstance(options, dict) or not all(type(each) in _OPTIONS for each in options.values()):
        raise RunError(f"the options in {path} must be a mapping of names to plain values; got another value")
    phi = parts.tensor("phi", (l, m, n))
    return FactorModel(
        phi=phi,
        pi=parts.tensor("pi", (m,)).to(phi),
        variances=parts.tensor("variances", (m, n)).to(phi),
        mean=parts.tensor("mean", (l,)),
        noise=parts.positive("noise"),
        scale=parts.positive("scale"),
        samples=int(parts.positive("samples")),
        steps=int(parts.value("steps")),
        options=options,
    )
