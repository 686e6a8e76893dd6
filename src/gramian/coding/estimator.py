"""Subspace sparse coding as an estimator, with scikit-learn's verbs."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from gramian.coding.dictionary import cosine_decay, initial_dictionary, learning_step
from gramian.coding.fista import fista
from gramian.coding.inference import InferenceMethod
from gramian.coding.lca import lca
from gramian.coding.prior import group_norms, reconstruct
from gramian.errors import DataError, OptionError
from gramian.penalties import Penalty
from gramian.rules import Rule

__all__ = ["METHODS", "SubspaceSparseCoding"]

METHODS: dict[str, InferenceMethod] = {"fista": fista, "lca": lca}
"""The inference methods that have a name."""


class SubspaceSparseCoding(TransformerMixin, BaseEstimator):
    r"""Learn a dictionary whose atoms stand in orthonormal groups, and code samples with a group prior.

    Minimises the mean over samples of min_a ½‖x/s − Σ_i Φ_i a_i‖² + λ Σ_i ‖a_i‖₂, with every group Φ_iᵀΦ_i driven to I
    by a decoupled step on β Σ_i μ(Φ_iᵀΦ_i − I). s is the standard deviation of the training samples, so that λ means
    the same for data of any scale. Samples should have zero mean, as whitened patches have.

    Args:
        n_groups: Number of groups m.
        group_size: Atoms in a group, n ≤ number of features.
        lam: Sparsity λ > 0, in units of the samples' standard deviation.
        beta: Strength β of the orthogonality penalty; 0.1·λ or more keeps every group whole.
        lr: Learning rate at the first step; it falls to 0 along half a cosine.
        steps: Learning steps.
        batch_size: Samples in a step, drawn anew at each.
        rule: Update rule of the orthogonality step; None for no penalty.
        penalty: Penalty μ.
        infer: 'fista' or 'lca'.
        tol: Relative duality gap at which `transform` stops.
        random_state: Seed of the first dictionary and of the batches.

    Attributes:
        phi_: The dictionary Φ[l, m, n], a float32 tensor.
        components_: The atoms as rows, an array [m·n, l], group by group.
        scale_: The standard deviation s of the training samples.
        n_features_in_: Number of features l.

    Examples:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).standard_normal((500, 16))
        >>> model = SubspaceSparseCoding(n_groups=8, group_size=2, lam=0.5, steps=20).fit(X)
        >>> codes = model.transform(X[:10])
        >>> codes.shape, model.amplitudes(X[:10]).shape, model.inverse_transform(codes).shape
        ((10, 16), (10, 8), (10, 16))

    References:
        Garrigues and Olshausen, "Group sparse coding with a Laplacian scale mixture prior", 2010; Paiton et al.,
        "Subspace locally competitive algorithms", 2020.
    """

    def __init__(
        self,
        n_groups: int = 64,
        group_size: int = 4,
        *,
        lam: float = 2.0,
        beta: float = 0.3,
        lr: float = 0.5,
        steps: int = 2000,
        batch_size: int = 128,
        rule: str | Rule | None = "proximal",
        penalty: str | Penalty = "l1",
        infer: str = "fista",
        tol: float = 1e-4,
        random_state: int = 0,
    ) -> None:
        self.n_groups = n_groups
        self.group_size = group_size
        self.lam = lam
        self.beta = beta
        self.lr = lr
        self.steps = steps
        self.batch_size = batch_size
        self.rule = rule
        self.penalty = penalty
        self.infer = infer
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "SubspaceSparseCoding":  # noqa: ARG002
        """Learn the dictionary.

        Args:
            X: Samples [samples, l], an array or tensor.
            y: Ignored; present because pipelines pass it.

        Returns:
            The estimator itself.

        Raises:
            OptionError: If an option is out of range.
            DataError: If all samples are zero.
        """
        method = self._method()
        samples = torch.from_numpy(validate_data(self, X, dtype=np.float32))
        scale = float(samples.square().mean().sqrt())
        if scale == 0:
            raise DataError("samples must not all be zero; got nothing but zeros")
        samples = samples / scale
        phi = initial_dictionary(samples.shape[1], self.n_groups, self.group_size, seed=self.random_state)
        generator = torch.Generator().manual_seed(self.random_state)
        for step in range(self.steps):
            batch = samples[torch.randint(len(samples), (self.batch_size,), generator=generator)]
            phi = learning_step(
                batch,
                phi,
                lam=self.lam,
                lr=cosine_decay(self.lr, step, self.steps),
                beta=self.beta,
                rule=self.rule,
                penalty=self.penalty,
                method=method,
            ).phi
        self.phi_ = phi
        self.scale_ = scale
        self.components_ = phi.flatten(1).mT.numpy().copy()
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "samples atoms"]:
        """Code samples: coefficients [samples, m·n], group by group."""
        return self._codes(X).flatten(1).numpy()

    def amplitudes(self, X: Any) -> Float[np.ndarray, "samples m"]:
        """Give the group amplitudes ‖a_i‖₂ of samples, [samples, m]."""
        return group_norms(self._codes(X)).numpy()

    def inverse_transform(self, codes: Any) -> Float[np.ndarray, "samples l"]:
        """Give the reconstruction [samples, l] that codes stand for, in the scale of the training samples."""
        check_is_fitted(self)
        groups = torch.as_tensor(codes, dtype=torch.float32).unflatten(1, self.phi_.shape[1:])
        return (reconstruct(self.phi_, groups) * self.scale_).numpy()

    def _codes(self, X: Any) -> Float[Tensor, "samples m n"]:
        check_is_fitted(self)
        samples = torch.from_numpy(validate_data(self, X, dtype=np.float32, reset=False)) / self.scale_
        return self._method()(samples, self.phi_, lam=self.lam, tol=self.tol).codes

    def _method(self) -> InferenceMethod:
        if self.infer not in METHODS:
            raise OptionError(f"infer must be one of {', '.join(map(repr, METHODS))}; got {self.infer!r}")
        return METHODS[self.infer]
