"""The options of block-sparse features, with their defaults and checks."""

import math
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from gramian.coding.encoders import IterativeEncoder
from gramian.coding.features.module import BlockSparseAutoencoder, check_architecture
from gramian.coding.inference import InferenceMethod
from gramian.errors import OptionError
from gramian.options import check_beta, real_number, whole_number

__all__ = ["FeatureOptions"]

Options = TypeVar("Options", bound="FeatureOptions")


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """The options of encoder, selection and frames.

    `BlockFeatures`, the settings of a run and the command line share these options. The caller chooses learning rate,
    number of steps and batch size.

    Attributes:
        active: Mean number of active groups of a sample.
        encoder: 'linear', 'tied' or 'iterative'.
        select: 'topk', 'batch_topk', 'threshold', 'fdr' or 'soft'.
        beta: Strength β of the orthogonality penalty; infinite for exactly orthonormal frames, 0 for free ones.
        rate: False discovery rate α of 'fdr'.
        infer: Inference method of the iterative encoder, a name or an `InferenceMethod`; None for that of the
            selection.
        patience: Number of steps without activity after which a group is replaced; None never replaces groups.

    Raises:
        OptionError: If an option is out of range, or two are incompatible.

    Examples:
        >>> FeatureOptions(active=2, select="threshold").module(16, groups=8, size=2, seed=0).active
        2
    """

    active: int = 4
    encoder: str = "linear"
    select: str = "topk"
    beta: float = math.inf
    rate: float = 0.1
    infer: str | InferenceMethod | None = None
    patience: int | None = 200

    def __post_init__(self) -> None:
        whole_number(self.active, name="active")
        check_architecture(self.encoder, self.select)
        check_beta(self.beta, infinite=True)
        if not real_number(self.rate, name="rate", attempt="0.1") < 1:
            raise OptionError(f"rate must be less than 1; got {self.rate!r}; try rate=0.1")
        if self.encoder == "iterative":
            IterativeEncoder(self.select, self.active, rate=self.rate, infer=self.infer)  # refuses what does not fit
        if self.patience is not None:
            whole_number(self.patience, name="patience")

    @classmethod
    def of(cls: type[Options], options: Any) -> Options:
        """Read the options from the attributes of an object."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    def module(self, length: int, *, groups: int, size: int, seed: int = 0) -> BlockSparseAutoencoder:
        """Return a new module for samples of a length.

        Args:
            length: Length l of a sample.
            groups: Number of groups m.
            size: Dimension n of a group.
            seed: Seed of the initial frames.
        """
        return BlockSparseAutoencoder(
            length, n_groups=groups, group_size=size, active=self.active, encoder=self.encoder, select=self.select,
            rate=self.rate, infer=self.infer, seed=seed,
        )  # fmt: skip
