"""Block-sparse features as an estimator with the interface of scikit-learn."""

import math
from functools import partial
from pathlib import Path
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
from gramian.coding.encoders import SparseCodes
from gramian.coding.features.audit import FeatureAudit, audit_codes
from gramian.coding.features.calibration import calibrate_
from gramian.coding.features.file import FeatureFile, load_features, plain_options, save_features
from gramian.coding.features.module import BlockSparseAutoencoder
from gramian.coding.features.options import FeatureOptions
from gramian.coding.features.training import FeatureTraining, OptimizerFactory, SchedulerFactory
from gramian.coding.inference import InferenceMethod, as_method, block_omp
from gramian.errors import RunError
from gramian.options import real_number, whole_number
from gramian.typing import Phi

__all__ = ["BlockFeatures"]

_PART = 1024
"""Samples that are encoded at once."""
_CALIBRATION = 16_384
_REVIVING = 0.75
"""Fraction of `fit` during which idle groups may be replaced; a group that is replaced later has no time to learn."""


class BlockFeatures(GroupTransformer):
    r"""Learn features that are low-dimensional subspaces, of which a few are active in each sample.

    The model is x = c + s(Σ_{i ∈ S} Φ_i a_i + ε) with orthonormal frames Φ_i of n directions and a small set S of
    active groups. Training minimises the mean of ‖(x − c)/s − Σ_i Φ_i a_i‖² over the frames and an encoder that
    computes the codes a in one pass; c is the mean of the samples, and s scales them to a mean norm of √l. After each
    step of the optimiser the frames are made orthonormal by `gramian.attach`.

    One pass finds subspaces well, but codes less well. `audit` measures how much it misses compared with inference, and
    `gramian.coding.block_omp` infers codes with the learned dictionary.

    Codes are sparse throughout: with arrays `transform` returns a `scipy.sparse.csr_array`, with tensors a sparse CSR
    tensor, and `encode` the indices and values. Samples are arrays, or tensors on any device; the module stays on the
    device of the training samples.

    Args:
        n_groups: Number of groups m.
        group_size: Dimension n of a group, n ≤ number of features.
        active: Mean number of active groups of a sample. With 'fdr' this holds in training; otherwise the data
            determine the number.
        encoder: 'linear' for free weights, 'tied' for the frames and one gain, 'iterative' for inference.
        select: Which groups are active: 'topk', the `active` groups of largest pre-codes; 'batch_topk', the same for a
            whole training batch, and a threshold otherwise; 'threshold', a running threshold in training too; 'fdr',
            the groups that noise does not explain; 'soft', a block soft threshold.
        beta: Strength β of the orthogonality penalty; infinite for exactly orthonormal frames, 0 for free ones.
        rate: False discovery rate α of 'fdr'.
        infer: Inference method of the iterative encoder, a name or an `InferenceMethod`; by default `block_omp`, or
            `fista` for 'soft'.
        steps: Number of training steps of `fit`.
        batch_size: Number of samples in each step of `fit`, drawn with replacement.
        lr: Learning rate of Adam. In `fit` it falls to 0 along half a cosine, `partial_fit` keeps it.
        optimizer: A function of the parameters that returns another optimiser of PyTorch.
        scheduler: A function of the optimiser that returns another schedule of PyTorch, for `fit`.
        patience: Number of steps without activity after which a group is replaced, if the errors of some samples lie in
            a subspace that explains as much as a group does; None never replaces groups.
        center: If true, subtract c. False sets c = 0.
        sparse_output: If false, `transform` returns dense codes.
        random_state: Seed of the initial frames and of the batches.

    Attributes:
        module_: The model, a `torch.nn.Module` that can also be trained in any other loop.
        phi_: The dictionary Φ[l, m, n], a tensor.
        components_: The directions as rows, an array [m·n, l], ordered by group.
        mean_: The mean c of the training samples, an array [l].
        scale_: The scale s of the training samples.
        loss_curve_: The loss of each step of `fit`.
        active_groups_: Mean number of active groups in the last tenth of the steps of `fit`.
        dead_: Which groups were in no sample of the last `patience` steps (200 for None), an array [m].
        n_samples_seen_: Number of samples that `mean_` and `scale_` are computed from.
        n_features_in_: Number of features l.
        n_iter_: Number of training steps so far.

    Examples:
        >>> from gramian.coding import ManifoldSum
        >>> X = ManifoldSum(16, n_factors=8, active=2).draw(2000, seed=0).x.numpy()
        >>> model = BlockFeatures(n_groups=16, group_size=3, active=2, steps=100).fit(X)
        >>> codes = model.transform(X[:10])
        >>> codes.shape, codes.nnz, model.inverse_transform(codes).shape
        ((10, 48), 60, (10, 16))
        >>> model.score(X) > 0.5, model.audit(X[:100]).unexplained_inference < model.audit(X[:100]).unexplained
        (True, True)

    References:
        "Block-Sparse Featurizers", arXiv 2606.25234; Gao et al., "Scaling and evaluating sparse autoencoders", arXiv
        2406.04093, 2024; Engels et al., "Not all language model features are one-dimensionally linear", arXiv
        2405.14860, 2024.
    """

    def __init__(
        self,
        n_groups: int = 256,
        group_size: int = 4,
        *,
        active: int = 4,
        encoder: str = "linear",
        select: str = "topk",
        beta: float = math.inf,
        rate: float = 0.1,
        infer: str | InferenceMethod | None = None,
        steps: int = 4000,
        batch_size: int = 512,
        lr: float = 3e-3,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        patience: int | None = 200,
        center: bool = True,
        sparse_output: bool = True,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_groups = n_groups
        self.group_size = group_size
        self.active = active
        self.encoder = encoder
        self.select = select
        self.beta = beta
        self.rate = rate
        self.infer = infer
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.patience = patience
        self.center = center
        self.sparse_output = sparse_output
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "BlockFeatures":  # noqa: ARG002
        """Learn the frames and the encoder from their initial values.

        Args:
            X: Samples [samples, l], an array or tensor.
            y: Ignored; pipelines pass it.

        Returns:
            The estimator itself.

        Raises:
            OptionError: If an option is out of range.
            DataError: If all samples are equal; without `center`, if all are zero.
        """
        samples = self._samples(X, reset=True)
        seed = self._begin(samples)
        cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=self.steps)
        training = self._new_training(self.scheduler or cosine)
        generator = torch.Generator().manual_seed(seed % 2**63)
        self.loss_curve_: list[float] = []
        active: list[float] = []
        for step in range(self.steps):
            rows = torch.randint(len(samples), (self.batch_size,), generator=generator, device="cpu")
            batch = self._standardised(samples[rows.to(samples.device)])
            result = training.step(batch, revive=step < _REVIVING * self.steps)
            self.loss_curve_.append(result.loss)
            active.append(result.active_groups)
        last = active[-max(1, self.steps // 10) :]
        self.active_groups_ = sum(last) / len(last)
        rows = torch.randperm(len(samples), generator=generator, device="cpu")[:_CALIBRATION]
        calibrate_(self.module_, self._standardised(samples[rows.to(samples.device)]))
        self.n_iter_ = self.steps
        self._update_dead()
        return self

    def partial_fit(self, X: Any, y: Any = None) -> "BlockFeatures":  # noqa: ARG002
        """Make one training step with these samples, and update `mean_` and `scale_` to all samples so far.

        After `fit` or `load`, it continues from their result, with new moments of the optimiser.

        Args:
            X: Samples [samples, l], an array or tensor.
            y: Ignored.

        Returns:
            The estimator itself.

        Raises:
            OptionError: If an option is out of range.
            DataError: If all samples so far are equal; without `center`, if all are zero.
        """
        fitted = hasattr(self, "module_")
        samples = self._samples(X, reset=not fitted)
        if fitted:
            self._update_moments(samples)
        else:
            self._begin(samples)
        if self._training is None:
            self._training = self._new_training(None)
        self._training.step(self._standardised(samples).to(self.module_.frames))
        self.n_iter_ += 1
        self._update_dead()
        return self

    @property
    def phi_(self) -> Phi:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The dictionary Φ[l, m, n]."""
        return self.module_.phi

    @property
    def components_(self) -> np.ndarray:
        """The directions as rows, [m·n, l], ordered by group."""
        return self.module_.frames.detach().flatten(0, 1).cpu().numpy()

    def encode(self, X: Any) -> SparseCodes:
        """Encode samples as indices and values, on the device of the module.

        Args:
            X: Samples [samples, l], an array or tensor.

        Returns:
            The active groups of each sample and their coefficients, in units of `scale_`.

        Cost:
            2·samples·l·m·n flops for a one-pass encoder; memory for the samples, the codes, and 2²⁴ pre-codes.
        """
        return self._encoded(self._samples(X))

    def transform(self, X: Any) -> Any:
        """Encode samples: coefficients [samples, m·n] in units of `scale_`, ordered by group, in compressed rows."""
        samples = self._samples(X)
        codes = self._encoded(samples)
        codes = codes._replace(values=codes.values.to(samples))
        if not self.sparse_output:
            return like(codes.dense().flatten(1), X)
        return codes.sparse_tensor() if isinstance(X, Tensor) else codes.csr()

    def inverse_transform(self, codes: Any) -> Any:
        """Reconstruct samples [samples, l] from dense or sparse codes, with the mean and scale of the samples."""
        check_is_fitted(self)
        self._check_codes(codes.shape if hasattr(codes, "shape") else np.shape(codes))
        if hasattr(codes, "tocsr"):
            x = torch.as_tensor(codes.tocsr() @ self.components_.astype(codes.dtype, copy=False))
        else:
            flat = as_tensor(codes)
            x = flat @ self.module_.frames.detach().flatten(0, 1).to(flat.device, flat.dtype)
        return like(x * self.scale_ + torch.as_tensor(self.mean_).to(x), codes)

    def score(self, X: Any, y: Any = None) -> float:  # noqa: ARG002
        """Compute the fraction of Σ‖x − c‖² that the codes of one pass explain."""
        x = self._inputs(self._samples(X))
        codes = self._encode_parts(x)
        with torch.no_grad():
            errors = [
                float((part - self.module_.decode(codes.rows(slice(i, i + _PART)))).double().square().sum())
                for i, part in zip(range(0, len(x), _PART), x.split(_PART), strict=True)
            ]
        return 1 - sum(errors) / max(float(x.double().square().sum()), np.finfo(np.float64).tiny)

    def audit(
        self, X: Any, *, infer: str | InferenceMethod | None = None, lam: float = 1.0, prior: str = "group_l0"
    ) -> FeatureAudit:
        """Compare the codes with those of inference, to measure what the encoder misses.

        Args:
            X: Samples [samples, l], some thousands.
            infer: Name or `InferenceMethod`; by default `block_omp` with `active` groups, or for 'fdr' with its rate.
            lam: λ, for methods that use it, in units of `scale_`.
            prior: Prior of these methods.

        Returns:
            Recall and precision of the groups, and the unexplained variance of the codes, of their refit by least
            squares on the same support, and of inference.

        Cost:
            Inference dominates.
        """
        x = self._inputs(self._samples(X))
        if infer is None:
            rule = {"fdr": self.rate} if self.select == "fdr" else {"active": self.active}
            method: InferenceMethod = partial(block_omp, **rule)
        else:
            method = as_method(infer)
        frames = self.module_.frames.detach()
        return audit_codes(x, frames, self._encode_parts(x), method, lam=lam, prior=prior)

    def save(self, path: str | Path) -> None:
        """Write the model to a file in the safetensors format, with a checksum.

        Functions among the options (`infer`, `optimizer`, `scheduler`) and `random_state` are not written.

        Args:
            path: Path of the file; an existing file is replaced.

        Raises:
            RunError: If the file cannot be written.
        """
        check_is_fitted(self)
        state = {name: each for name, each in self.module_.state_dict().items() if name != "frames"}
        file = FeatureFile(
            phi=self.phi_,
            mean=torch.as_tensor(self.mean_),
            scale=self.scale_,
            samples=self.n_samples_seen_,
            steps=self.n_iter_,
            options=plain_options(self.get_params()),
            state=state,
        )
        save_features(Path(path), file)

    @classmethod
    def load(cls, path: str | Path) -> "BlockFeatures":
        """Read a model that `save` wrote; it encodes, and `partial_fit` continues it.

        Raises:
            RunError: If the file does not exist or is not a complete file of this format.
        """
        file = load_features(Path(path))
        try:
            self = cls(**file.options)
            self.module_ = self._new_module(len(file.phi)).to(file.phi.dtype)
            self.module_.load_state_dict({"frames": file.phi.permute(1, 2, 0), **file.state})
        except (TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{path} must hold one whole model; its options and tensors do not fit: {error}") from error
        self.module_.eval()
        self.n_features_in_ = len(file.phi)  # pyright: ignore[reportAttributeAccessIssue]
        self.mean_, self.scale_ = file.mean.double().numpy(), file.scale
        self.n_samples_seen_, self.n_iter_, self.loss_curve_, self._training = file.samples, file.steps, [], None
        self._update_dead()
        return self

    def __getstate__(self) -> Any:
        # The hooks of an optimiser cannot be pickled; `partial_fit` makes a new one.
        return {**super().__getstate__(), **({"_training": None} if hasattr(self, "module_") else {})}

    def _begin(self, samples: Tensor) -> int:
        for name in ("n_groups", "group_size", "steps", "batch_size"):
            whole_number(getattr(self, name), name=name)
        FeatureOptions.of(self)
        real_number(self.lr, name="lr", attempt="3e-3")
        check_center(self.center)
        check_group_size(self.group_size, samples.shape[1])
        seed = seed_of(self.random_state)
        module = self._new_module(samples.shape[1], seed=seed)
        self.n_samples_seen_ = 0
        self._update_moments(samples)
        self.module_ = module.to(samples)
        self._training: FeatureTraining | None = None
        self.n_iter_ = 0
        return seed

    def _new_module(self, length: int, seed: int = 0) -> BlockSparseAutoencoder:
        return FeatureOptions.of(self).module(length, groups=self.n_groups, size=self.group_size, seed=seed)

    def _new_training(self, scheduler: SchedulerFactory | None) -> FeatureTraining:
        return FeatureTraining(
            self.module_, lr=self.lr, beta=self.beta, optimizer=self.optimizer, scheduler=scheduler,
            patience=self.patience,
        )  # fmt: skip

    def _update_moments(self, samples: Tensor) -> None:
        """Include these samples in the mean, and in the scale for which the mean norm is √l."""
        seen = self.n_samples_seen_
        previous = (self.mean_, self.scale_, seen) if seen else None
        mean, _ = merged_mean_and_scale(samples, center=self.center, previous=previous)
        centre = torch.as_tensor(mean).to(samples)
        norms = [torch.linalg.vector_norm(part - centre, dim=1) for part in samples.split(_PART)]
        scale = float(torch.cat(norms).double().mean()) / samples.shape[1] ** 0.5
        weight = len(samples) / (seen + len(samples))
        self.mean_, self.scale_ = mean, weight * scale + (1 - weight) * (self.scale_ if seen else 0.0)
        self.n_samples_seen_ = seen + len(samples)

    def _update_dead(self) -> None:
        self.dead_ = (self.module_.idle >= (self.patience or 200)).cpu().numpy()

    def _inputs(self, samples: Tensor) -> Tensor:
        return self._standardised(samples).to(self.module_.frames)

    def _encoded(self, samples: Tensor) -> SparseCodes:
        return self._encode_parts(self._inputs(samples))

    def _encode_parts(self, x: Tensor) -> SparseCodes:
        self.module_.eval()
        return self.module_.encode_all(x)
