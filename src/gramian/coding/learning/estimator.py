"""Subspace sparse coding as an estimator with the interface of scikit-learn."""

import math
import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from gramian.coding.arrays import (
    GroupTransformer,
    as_tensor,
    check_center,
    check_group_size,
    like,
    merged_mean_and_scale,
    seed_of,
)
from gramian.coding.energy import energy
from gramian.coding.inference import InferenceMethod, as_method
from gramian.coding.learning.calibration import calibrated_lam
from gramian.coding.learning.dictionary import cosine_decay, initial_dictionary
from gramian.coding.learning.learner import Learner
from gramian.coding.learning.options import LearningOptions
from gramian.coding.model import Codes, group_norms, reconstruct
from gramian.coding.priors import Prior, as_prior
from gramian.options import real_number, whole_number
from gramian.penalties import Penalty
from gramian.rules import Rule

__all__ = ["SubspaceSparseCoding"]


class SubspaceSparseCoding(GroupTransformer):
    r"""Learn a dictionary of orthonormal groups of atoms, and code samples with a group prior.

    Learning minimises the mean over samples of min_a ½‖(x − c)/s − Σ_i Φ_i a_i‖² + λ Σ_i ‖a_i‖₂. A decoupled step on
    β Σ_i μ(Φ_iᵀΦ_i − I) keeps every group near Φ_iᵀΦ_i = I. c is the mean of the training samples for each feature, and
    s is the standard deviation of all features about it, so λ does not depend on the mean and the scale of the data.
    `partial_fit` computes c and s over all samples so far. If every code is zero, the estimator warns.

    Samples are arrays, or tensors on any device. Results are of the same kind, on the same device, and keep the data
    type float32 or float64.

    Args:
        n_groups: Number of groups m.
        group_size: Number of atoms in a group, n ≤ number of features; 1 gives sparse coding without groups.
        lam: Sparsity λ > 0, in units of the samples' standard deviation.
        beta: Strength β of the orthogonality penalty; 0.1·λ or more keeps every group near full rank.
        lr: Learning rate at the first step of `fit`; it falls to 0 along half a cosine. `partial_fit` keeps it.
        steps: Number of learning steps of `fit`.
        batch_size: Number of samples in each step of `fit`, drawn with replacement.
        rule: Update rule of the orthogonality step; None for no penalty.
        penalty: Penalty μ.
        update: How a step updates the dictionary, 'sgd' or 'online'.
        prior: 'group_laplace', 'nonnegative', 'scale_mixture', 'group_l0', 'spike_slab' or a `Prior`.
        target_active: Target for the mean number of active groups, reached by adapting λ; `fit` ends with the λ for
            which the codes of `transform` reach it on the training samples. None keeps λ constant.
        patience: Number of steps without activity after which a group is replaced; None never replaces groups.
        infer: 'auto', 'fista', 'lca', 'coordinate_descent', 'block_omp', 'block_iht' or an `InferenceMethod`.
        iterations: Iterations of inference in a learning step.
        center: If true, subtract c. False sets c = 0, for data with a meaningful zero, as with the non-negative prior;
            s is then the root mean square.
        tol: Relative duality gap at which `transform` stops.
        max_iter: Maximal number of iterations of `transform`.
        random_state: Seed of the initial dictionary and of the batches.

    Attributes:
        phi_: The dictionary Φ[l, m, n], a tensor.
        components_: The atoms as rows, an array [m·n, l], ordered by group.
        lam_: λ after learning; equal to `lam` unless `target_active` is given.
        mean_: The mean c of the training samples, an array [l]; zeros if `center` is False.
        scale_: The standard deviation s of the training samples about it.
        n_samples_seen_: Number of samples that `mean_` and `scale_` are computed from.
        n_features_in_: Number of features l.
        n_iter_: Number of learning steps so far.

    Examples:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).standard_normal((500, 16))
        >>> model = SubspaceSparseCoding(n_groups=8, group_size=2, lam=0.5, steps=20).fit(X)
        >>> codes = model.transform(X[:10])
        >>> codes.shape, model.amplitudes(X[:10]).shape, model.inverse_transform(codes).shape
        ((10, 16), (10, 8), (10, 16))
        >>> model.log_prob(X[:10]).shape, model.sample(5)[0].shape
        ((10,), (5, 16))

    References:
        Garrigues and Olshausen, "Group sparse coding with a Laplacian scale mixture prior", 2010; Paiton et al.,
        "Subspace locally competitive algorithms", 2020.
    """

    def __init__(
        self,
        n_groups: int = 64,
        group_size: int = 4,
        *,
        lam: float = LearningOptions.lam,
        beta: float = LearningOptions.beta,
        lr: float = 0.5,
        steps: int = 2000,
        batch_size: int = 128,
        rule: str | Rule | None = LearningOptions.rule,
        penalty: str | Penalty = LearningOptions.penalty,
        update: str = LearningOptions.update,
        prior: str | Prior = LearningOptions.prior,
        target_active: float | None = LearningOptions.target_active,
        patience: int | None = LearningOptions.patience,
        infer: str | InferenceMethod = LearningOptions.infer,
        iterations: int = LearningOptions.iterations,
        center: bool = True,
        tol: float = 1e-4,
        max_iter: int = 1000,
        random_state: int | np.random.RandomState | None = 0,
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
        self.update = update
        self.prior = prior
        self.target_active = target_active
        self.patience = patience
        self.infer = infer
        self.iterations = iterations
        self.center = center
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "SubspaceSparseCoding":  # noqa: ARG002
        """Learn the dictionary from its initial value.

        Args:
            X: Samples [samples, l], an array or tensor.
            y: Ignored; pipelines pass it.

        Returns:
            The estimator itself.

        Raises:
            OptionError: If an option is out of range.
            DataError: If all samples are equal; without `center`, if all are zero.

        Warns:
            UserWarning: If no group was active in any step.
        """
        samples = self._samples(X, reset=True)
        self._begin(samples)
        generator = torch.Generator().manual_seed(self._seed)
        active = 0.0
        for step in range(self.steps):
            indices = torch.randint(len(samples), (self.batch_size,), generator=generator, device="cpu")
            batch = self._standardised(samples[indices.to(samples.device)])
            active += self._learner.step(batch, lr=cosine_decay(self.lr, step, self.steps)).active_groups
        if active == 0:
            self._warn_of_zero_codes(self._standardised(samples))
        elif self.target_active is not None:
            indices = torch.randperm(len(samples), generator=generator, device="cpu")[:1024]
            self._learner.lam = calibrated_lam(
                self._standardised(samples[indices.to(samples.device)]),
                self._learner.phi,
                lam=self._learner.lam,
                prior=as_prior(self.prior),
                infer=as_method(self.infer),
                target=self.target_active,
                max_iter=self.max_iter,
                tol=self.tol,
            )
        return self._update_attributes()

    def partial_fit(self, X: Any, y: Any = None) -> "SubspaceSparseCoding":  # noqa: ARG002
        """Make one learning step with these samples, and update `mean_` and `scale_` to all samples so far.

        After `fit`, it continues from the result of `fit`.

        Args:
            X: Samples [samples, l], an array or tensor.
            y: Ignored.

        Returns:
            The estimator itself.

        Raises:
            OptionError: If an option is out of range.
            DataError: If all samples so far are equal; without `center`, if all are zero.

        Warns:
            UserWarning: If no group is active.
        """
        fitted = hasattr(self, "_learner")
        samples = self._samples(X, reset=not fitted)
        if fitted:
            self._update_moments(samples)
        else:
            self._begin(samples)
        batch = self._standardised(samples).to(self.phi_)
        if self._learner.step(batch, lr=self.lr).active_groups == 0:
            self._warn_of_zero_codes(batch)
        return self._update_attributes()

    def transform(self, X: Any) -> Any:
        """Infer the coefficients [samples, m·n] of samples, ordered by group; warn if all are zero."""
        samples = self._samples(X)
        return like(self._codes(samples).flatten(1), X)

    def amplitudes(self, X: Any) -> Any:
        """Infer the group amplitudes ‖a_i‖₂ of samples, [samples, m]."""
        samples = self._samples(X)
        return like(group_norms(self._codes(samples)), X)

    def directions(self, X: Any) -> Any:
        """Infer the directions a_i/‖a_i‖₂ of samples, [samples, m, n]; 0 for silent groups."""
        codes = self._codes(self._samples(X))
        return like(codes / group_norms(codes).clamp_min(torch.finfo(codes.dtype).tiny)[..., None], X)

    def inverse_transform(self, codes: Any) -> Any:
        """Reconstruct samples [samples, l] from codes, with the mean and the scale of the training samples."""
        check_is_fitted(self)
        flat = as_tensor(codes)
        x = reconstruct(self._phi(flat), self._grouped(flat))
        return like(x * self.scale_ + torch.as_tensor(self.mean_).to(x), codes)

    def log_prob(self, X: Any, codes: Any = None) -> Any:
        """Compute log p(x, a) of samples with codes, [samples].

        Args:
            X: Samples [samples, l].
            codes: Codes [samples, m·n]; by default the most probable codes, those of `transform`.

        Returns:
            The log of the joint density of the samples, in their original units, and the codes.
        """
        samples = self._samples(X)
        a = self._codes(samples) if codes is None else self._grouped(as_tensor(codes).to(samples))
        terms = energy(self._standardised(samples), self._phi(samples), a, self.lam_, as_prior(self.prior))
        length, m, n = self.phi_.shape
        normalizer = as_prior(self.prior).log_normalizer(m, n, self.lam_)
        constant = normalizer + length * (0.5 * math.log(2 * math.pi) + math.log(self.scale_))
        return like(-terms.total - constant, X)

    def score(self, X: Any, y: Any = None) -> float:  # noqa: ARG002
        """Compute the mean of `log_prob` over samples, with their most probable codes."""
        return float(np.mean(np.asarray(as_tensor(self.log_prob(X)).cpu())))

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = 0) -> tuple[Any, Any]:
        """Draw codes from the prior, and samples from them, with noise of variance `scale_`².

        Args:
            n_samples: Number of samples.
            random_state: Seed.

        Returns:
            Samples [samples, l] and their codes [samples, m·n], as arrays.
        """
        check_is_fitted(self)
        n_samples = whole_number(n_samples, name="n_samples")
        generator = torch.Generator().manual_seed(seed_of(random_state))
        length, m, n = self.phi_.shape
        codes = as_prior(self.prior).sample(n_samples, m, n, self.lam_, generator=generator)
        noise = torch.randn(n_samples, length, generator=generator, dtype=torch.float64, device="cpu")
        x = (reconstruct(self.phi_.cpu().double(), codes) + noise) * self.scale_ + torch.from_numpy(self.mean_)
        return x.to(self.phi_.dtype).numpy(), codes.flatten(1).to(self.phi_.dtype).numpy()

    def _begin(self, samples: Tensor) -> None:
        for name in ("n_groups", "group_size", "steps", "batch_size", "max_iter"):
            whole_number(getattr(self, name), name=name)
        real_number(self.lr, name="lr", attempt="0.5")
        real_number(self.tol, name="tol", zero=True, attempt="1e-4")
        check_center(self.center)
        check_group_size(self.group_size, samples.shape[1])
        self.n_samples_seen_ = 0
        self._update_moments(samples)
        self._seed = seed_of(self.random_state)
        phi = initial_dictionary(samples.shape[1], self.n_groups, self.group_size, seed=self._seed)
        options = LearningOptions(**{option.name: getattr(self, option.name) for option in fields(LearningOptions)})
        self._learner = Learner(phi.to(samples), options)
        self._update_attributes()

    def _update_moments(self, samples: Tensor) -> None:
        """Include these samples in the mean and the scale."""
        seen = self.n_samples_seen_
        previous = (self.mean_, self.scale_, seen) if seen else None
        self.mean_, self.scale_ = merged_mean_and_scale(samples, center=self.center, previous=previous)
        self.n_samples_seen_ = seen + len(samples)

    def _warn_of_zero_codes(self, x: Tensor) -> None:
        """Warn that every code is zero, and suggest a λ for which codes are active."""
        strongest = float(group_norms((x @ self._phi(x).flatten(1)).unflatten(1, self.phi_.shape[1:])).max())
        if as_prior(self.prior).counts_groups:
            largest, strongest = "½‖Φ_iᵀx‖²", 0.5 * strongest**2
        else:
            largest = "‖Φ_iᵀx‖"
        mean = "" if self.center else ", or center=True if the samples have a mean"
        warnings.warn(
            f"every code is zero: lam must be less than the largest {largest} = {strongest:.3g}; got lam = "
            f"{self.lam_:.3g}; try lam={strongest / 4:.2g}{mean}",
            UserWarning,
            stacklevel=3,
        )

    def _update_attributes(self) -> "SubspaceSparseCoding":
        self.phi_ = self._learner.phi
        self.lam_ = self._learner.lam
        self.n_iter_ = self._learner.steps
        self.components_ = self.phi_.flatten(1).mT.cpu().numpy().copy()
        self._n_features_out = self.components_.shape[0]
        return self

    def _codes(self, samples: Tensor) -> Codes:
        phi = self._phi(samples)
        method = as_method(self.infer)
        x = self._standardised(samples)
        codes = method(x, phi, lam=self.lam_, prior=self.prior, max_iter=self.max_iter, tol=self.tol).codes
        if len(x) > 1 and not bool(codes.any()):  # the code of a single sample may well be zero
            self._warn_of_zero_codes(x)
        return codes

    def _phi(self, samples: Tensor) -> Tensor:
        return self.phi_.to(samples)
