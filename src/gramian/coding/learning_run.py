"""A learning run on images: settings, data, the loop's state, and the folder that it lives in."""

import json
import math
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.dictionary import cosine_decay, initial_dictionary
from gramian.coding.evaluation import snr
from gramian.coding.inference import Inference
from gramian.coding.learner import UPDATES, Learner, LearningStep
from gramian.coding.methods import METHODS
from gramian.coding.parallel import Parallel
from gramian.coding.prior import PRIORS, energy, group_norms, reconstruct
from gramian.coding.storage import Dictionary, load_dictionary, save_dictionary
from gramian.data import WHITENINGS, ImageSplit, Preparation, load_images, shipped_images, split_held_out
from gramian.errors import OptionError, RunError
from gramian.files import replace_file
from gramian.kernels import dense
from gramian.penalties import as_penalty
from gramian.rules import as_rule
from gramian.typing import Phi

__all__ = ["LearningRun", "RunSettings", "holds_run"]

_DICTIONARY = "dictionary.safetensors"
_METRICS = "metrics.jsonl"
_SETTINGS = "settings.json"
_HELD_OUT_PATCHES = 512
_SEED_OF_HELD_OUT = 1
_MENDED = 0.75
"""Up to which part of a run silent groups are made anew."""


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides the result of a run.

    Attributes:
        images: Folder of pictures, array of them or film; None for those that scikit-image and scikit-learn ship.
        colour: Whether to learn from colours; else from luminance.
        whiten: 'fourier', 'zca' or 'none'.
        groups: Number of groups m.
        size: Atoms in a group, n.
        patch: Side of a patch, pixels.
        lam: Sparsity λ, in units of the patches' standard deviation.
        beta: Strength β of the orthogonality penalty.
        lr: Learning rate at the first step; it falls to 0 along half a cosine.
        steps: Learning steps.
        batch: Patches in a step.
        iterations: Iterations of inference in a learning step.
        rule: Update rule of the orthogonality step.
        penalty: Penalty μ.
        update: How the dictionary moves, 'sgd' or 'online'.
        prior: Name of the prior.
        target_active: Mean number of active groups towards which λ is moved; None keeps λ.
        patience: After how many steps without use a group is made anew, up to the last quarter of the run.
        infer: Inference method.
        device: Where to learn, as torch names it.
        spread: Among how many processes groups are shared out, under torchrun.
        seed: Seed of the first dictionary and of all patches.
        report_every: Steps between two rows of metrics, each with a checkpoint.
    """

    images: str | None = None
    colour: bool = False
    whiten: str = "fourier"
    groups: int = 64
    size: int = 4
    patch: int = 16
    lam: float = 2.0
    beta: float = 0.3
    lr: float = 0.5
    steps: int = 8000
    batch: int = 128
    iterations: int = 10
    rule: str = "proximal"
    penalty: str = "l1"
    update: str = "sgd"
    prior: str = "group_laplace"
    target_active: float | None = None
    patience: int = 200
    infer: str = "fista"
    device: str = "cpu"
    spread: int = 1
    seed: int = 0
    report_every: int = 100

    def __post_init__(self) -> None:
        for name in ("groups", "size", "steps", "batch", "iterations", "report_every", "patience", "spread"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.patch < 2:
            raise OptionError(f"patch must be at least 2 pixels; got {self.patch}; try 16")
        for name in ("lam", "beta", "lr"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise OptionError(f"{name} must be a positive finite number; got {value}")
        length = self.patch**2 * (3 if self.colour else 1)
        if self.size > length:
            raise OptionError(
                f"a group can hold at most as many orthonormal atoms as a patch has numbers, {length}; got size "
                f"{self.size}; try smaller groups or larger patches"
            )
        for name, known in (("whiten", WHITENINGS), ("update", UPDATES), ("prior", PRIORS), ("infer", METHODS)):
            if getattr(self, name) not in known:
                raise OptionError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        if self.target_active is not None and not 0 < self.target_active <= self.groups:
            raise OptionError(f"target_active must lie between 0 and the number of groups; got {self.target_active:g}")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise OptionError(f"device must be one that torch finds here; got {self.device!r}; try 'cpu'") from error
        as_rule(self.rule)
        as_penalty(self.penalty)


class LearningRun:
    """A dictionary in the making: what it learns from, how far it is, and what was measured on the way.

    The state is that of the learner; every batch is a function of the seed and the step. So a run that was stopped and
    resumed ends with the same bits as one that was not. Started by torchrun, all processes make one run together: the
    batch of a step is shared out among them, and groups too if the settings say so.

    Args:
        settings: What to do.

    Attributes:
        settings: What to do.
        split: The pictures.
        preparation: How samples are made of pictures.
        parallel: Which part of a step is this process's.
        train: Patches to learn from.
        held_out: Patches that learning never sees, in the scale of the others.
        learner: What learns.
        initial_phi: The dictionary before the first step.
        metrics: One row for each report.
        skipped: Files of the folder that could not be read.

    Raises:
        DataError: If the pictures cannot be used.
        OptionError: If the settings do not fit them.
    """

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.skipped: tuple[str, ...] = ()
        self.split = self._pictures()
        self.preparation, self.train = Preparation.fit(
            [image.pixels for image in self.split.train], size=settings.patch, whiten=settings.whiten
        )
        self.held_out = self.preparation.sampler([image.pixels for image in self.split.held_out])
        length = settings.patch**2 * self.preparation.channels
        self.initial_phi = initial_dictionary(length, settings.groups, settings.size, seed=settings.seed)
        self.parallel = Parallel.grid(settings.spread)
        self.parallel.share_of_patches(torch.empty(settings.batch, 0))  # found now, not in the first step
        self.learner = Learner(
            self.initial_phi.to(settings.device),
            lam=settings.lam,
            beta=settings.beta,
            rule=settings.rule,
            penalty=settings.penalty,
            update=settings.update,
            prior=settings.prior,
            infer=settings.infer,
            max_iter=settings.iterations,
            target_active=settings.target_active,
            patience=settings.patience,
            parallel=self.parallel,
        )
        self.metrics: list[dict[str, float]] = []
        self._whole: tuple[Tensor, Tensor] | None = None

    @property
    def phi(self) -> Phi:
        """The dictionary Φ[l, m, n], the groups of all processes, on the CPU."""
        if self._whole is None or self._whole[0] is not self.learner.phi:
            self._whole = self.learner.phi, self.parallel.whole(self.learner.phi).cpu()
        return self._whole[1]

    @property
    def step(self) -> int:
        """How many steps were made."""
        return self.learner.steps

    @property
    def finished(self) -> bool:
        """Whether every step was made."""
        return self.step >= self.settings.steps

    @property
    def due(self) -> bool:
        """Whether a row of metrics is due at this step."""
        return self.step % self.settings.report_every == 0 or self.finished

    def seconds_per_step(self, trials: int = 10) -> float:
        """Measure how long a step takes, on a learner that is thrown away; at the least of the trials."""
        before = self.learner.state()
        took: list[float] = []
        for _ in range(trials):
            began = time.perf_counter()
            self.advance()
            took.append(time.perf_counter() - began)
        self.learner.load(before)
        return min(took)

    def advance(self) -> LearningStep:
        """Make one learning step."""
        settings, step = self.settings, self.step
        if step >= _MENDED * settings.steps:
            self.learner.patience = None  # a group made anew would have no time to learn
        batch = self.train.sample(settings.batch, seed=settings.seed, step=step).to(settings.device)
        return self.learner.step(batch, lr=cosine_decay(settings.lr, step, settings.steps))

    def held_out_patches(self, count: int = _HELD_OUT_PATCHES) -> Float[Tensor, "count pixels"]:
        """Give patches of the pictures that learning never sees; always the same."""
        return self.held_out.sample(count, seed=_SEED_OF_HELD_OUT, step=0)

    def encode(self, patches: Float[Tensor, "count pixels"]) -> Inference:
        """Infer the codes of patches of the run's scale, to a relative gap of 0.1 %."""
        settings = self.settings
        method = METHODS[settings.infer]
        return method(patches, self.phi, lam=self.learner.lam, prior=settings.prior, max_iter=1000, tol=1e-3)

    def evaluate(self, *, seconds: float) -> dict[str, float]:
        """Measure the dictionary on held-out patches.

        Args:
            seconds: Time spent so far, to be noted.

        Returns:
            A row of metrics: the terms of the energy per patch, L/β = Σ|X_jk| and the largest |X_jk| of the dictionary,
            active groups, and SNR in dB. Under torchrun every process takes part, and the first one has a row; the
            others' are empty.
        """
        if self.phi.numel() and not self.parallel.first:
            return {}
        x = self.held_out_patches()
        codes = self.encode(x).codes
        terms = energy(x, self.phi, codes, self.learner.lam, PRIORS[self.settings.prior])
        X = dense.residual(self.phi)
        return {
            "step": self.step,
            "seconds": round(seconds, 2),
            "lr": cosine_decay(self.settings.lr, self.step, self.settings.steps),
            "lam": self.learner.lam,
            "energy": float(terms.total.mean()),
            "reconstruction": float(terms.reconstruction.mean()),
            "sparsity": float(terms.sparsity.mean()),
            "orthogonality": float(as_penalty(self.settings.penalty).value(X).sum()),
            "residual": float(X.abs().max()),
            "active_groups": float((group_norms(codes) > 0).sum(dim=1).double().mean()),
            "snr": snr(x, reconstruct(self.phi, codes)),
        }

    def note(self, *, seconds: float) -> None:
        """Evaluate, and keep the row among the metrics."""
        row = self.evaluate(seconds=seconds)
        if row:
            self.metrics.append(row)

    @property
    def dictionary(self) -> Dictionary:
        """What is kept in a file."""
        state = {name: tensor.cpu() for name, tensor in self.learner.state().items()}
        settings = self.settings
        return Dictionary(
            self.phi, self.initial_phi, self.preparation, self.learner.lam, settings.prior, settings.infer, state
        )

    def save(self, folder: Path) -> None:
        """Write the settings, the metrics and, last, the dictionary; each file in one stroke.

        Under torchrun every process takes part, and the first one writes.

        Raises:
            RunError: If a file cannot be written. A folder made for the purpose is then taken away again.
        """
        dictionary = self.dictionary
        if not self.parallel.first:
            return
        made = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"the folder {folder} could not be made: {error.strerror or error}") from error
        try:
            replace_file(folder / _SETTINGS, (json.dumps(asdict(self.settings), indent=2) + "\n").encode())
            replace_file(folder / _METRICS, "".join(json.dumps(row) + "\n" for row in self.metrics).encode())
            save_dictionary(folder / _DICTIONARY, dictionary)
        except RunError:
            if made:
                for name in (_SETTINGS, _METRICS, _DICTIONARY):
                    (folder / name).unlink(missing_ok=True)
                folder.rmdir()
            raise

    @classmethod
    def resume(cls, folder: Path) -> "LearningRun":
        """Take up a run where its folder says that it stopped.

        Raises:
            RunError: If the folder holds no run, or its files do not fit together.
            DataError: If the pictures it learned from are gone.
        """
        if not holds_run(folder):
            raise RunError(f"{folder} must hold a run, to be resumed; got no {_DICTIONARY} and {_SETTINGS} there")
        try:
            stored: dict[str, Any] = json.loads((folder / _SETTINGS).read_text())
            settings = RunSettings(**{field.name: stored[field.name] for field in fields(RunSettings)})
            lines = (folder / _METRICS).read_text().splitlines()
            metrics: list[dict[str, float]] = [json.loads(line) for line in lines if line]
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise RunError(f"{folder} must hold whole settings and metrics; they cannot be read: {error!r}") from error
        dictionary = load_dictionary(folder / _DICTIONARY)
        run = cls(settings)
        if dictionary.phi.shape != run.phi.shape:
            raise RunError(
                f"the dictionary in {folder} must have the shape {list(run.phi.shape)} of its settings; "
                f"got {list(dictionary.phi.shape)}"
            )
        if not math.isclose(dictionary.preparation.scale, run.preparation.scale, rel_tol=1e-6):
            raise RunError(f"the pictures of the run in {folder} have changed since it began; try a new run")
        run.initial_phi = dictionary.initial_phi
        try:
            run.learner.load(dictionary.state)
        except OptionError as error:
            raise RunError(f"the dictionary in {folder} does not fit its settings: {error}") from error
        # The metrics are written before the dictionary: after a kill between the two there is a row too many.
        run.metrics = [row for row in metrics if row["step"] <= run.step]
        return run

    def _pictures(self) -> ImageSplit:
        settings = self.settings
        sequence = False
        if settings.images is None:
            images = shipped_images(colour=settings.colour)
        else:
            loaded = load_images(Path(settings.images), colour=settings.colour)
            images, self.skipped, sequence = loaded.images, loaded.skipped, loaded.sequence
        return split_held_out(images, min_side=2 * settings.patch, sequence=sequence)


def holds_run(folder: Path) -> bool:
    """Say whether a folder holds a run."""
    return (folder / _DICTIONARY).is_file() and (folder / _SETTINGS).is_file()
