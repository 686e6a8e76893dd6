"""A learning run on images: settings, data, the loop's state, and the folder that it lives in."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from gramian.coding.dictionary import LearningStep, cosine_decay, initial_dictionary, learning_step
from gramian.coding.estimator import METHODS
from gramian.coding.evaluation import snr
from gramian.coding.inference import Inference
from gramian.coding.prior import energy, group_norms, reconstruct
from gramian.coding.storage import Dictionary, load_dictionary, save_dictionary
from gramian.data import FourierWhitening, ImageSplit, PatchSampler, load_folder, shipped_images, split_held_out
from gramian.errors import OptionError, RunError
from gramian.files import replace_file
from gramian.kernels import dense
from gramian.penalties import as_penalty
from gramian.rules import as_rule

__all__ = ["LearningRun", "RunSettings", "holds_run"]

_DICTIONARY = "dictionary.safetensors"
_METRICS = "metrics.jsonl"
_SETTINGS = "settings.json"
_HELD_OUT_PATCHES = 512
_SEED_OF_HELD_OUT = 1


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides the result of a run.

    Attributes:
        images: Folder of pictures; None for those that scikit-image and scikit-learn ship.
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
        infer: Inference method.
        seed: Seed of the first dictionary and of all patches.
        report_every: Steps between two rows of metrics, each with a checkpoint.
    """

    images: str | None = None
    groups: int = 64
    size: int = 4
    patch: int = 16
    lam: float = 2.0
    beta: float = 0.3
    lr: float = 0.5
    steps: int = 8000
    batch: int = 128
    iterations: int = 20
    rule: str = "proximal"
    penalty: str = "l1"
    infer: str = "fista"
    seed: int = 0
    report_every: int = 100

    def __post_init__(self) -> None:
        for name in ("groups", "size", "steps", "batch", "iterations", "report_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.patch < 2:
            raise OptionError(f"patch must be at least 2 pixels; got {self.patch}; try 16")
        for name in ("lam", "beta", "lr"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise OptionError(f"{name} must be a positive finite number; got {value}")
        if self.size > self.patch**2:
            raise OptionError(
                f"a group can hold at most as many orthonormal atoms as a patch has pixels, {self.patch}² = "
                f"{self.patch**2}; got size {self.size}; try smaller groups or larger patches"
            )
        if self.infer not in METHODS:
            raise OptionError(f"infer must be one of {', '.join(METHODS)}; got {self.infer!r}")
        as_rule(self.rule)
        as_penalty(self.penalty)


class LearningRun:
    """A dictionary in the making: what it learns from, how far it is, and what was measured on the way.

    The state is the dictionary and the number of the step; every batch is a function of the seed and the step. So a run
    that was stopped and resumed ends with the same bits as one that was not.

    Args:
        settings: What to do.

    Attributes:
        settings: What to do.
        split: The pictures.
        whitening: The whitening of pictures.
        train: Patches to learn from.
        held_out: Patches that learning never sees, in the scale of the others.
        phi: The dictionary Φ[l, m, n].
        initial_phi: The dictionary before the first step.
        step: How many steps were made.
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
        self.whitening = FourierWhitening()
        pictures = {
            image.name: self.whitening.whiten(image.pixels) for image in (*self.split.train, *self.split.held_out)
        }
        self.train = PatchSampler([pictures[image.name] for image in self.split.train], size=settings.patch)
        self.held_out = PatchSampler(
            [pictures[image.name] for image in self.split.held_out], size=settings.patch, scale=self.train.scale
        )
        self.initial_phi = initial_dictionary(settings.patch**2, settings.groups, settings.size, seed=settings.seed)
        self.phi = self.initial_phi
        self.step = 0
        self.metrics: list[dict[str, float]] = []

    @property
    def finished(self) -> bool:
        """Whether every step was made."""
        return self.step >= self.settings.steps

    @property
    def due(self) -> bool:
        """Whether a row of metrics is due at this step."""
        return self.step % self.settings.report_every == 0 or self.finished

    def advance(self) -> LearningStep:
        """Make one learning step."""
        settings = self.settings
        result = learning_step(
            self.train.sample(settings.batch, seed=settings.seed, step=self.step),
            self.phi,
            lam=settings.lam,
            lr=cosine_decay(settings.lr, self.step, settings.steps),
            beta=settings.beta,
            rule=settings.rule,
            penalty=settings.penalty,
            method=METHODS[settings.infer],
            max_iter=settings.iterations,
        )
        self.phi = result.phi
        self.step += 1
        return result

    def held_out_patches(self, count: int = _HELD_OUT_PATCHES) -> Float[Tensor, "count pixels"]:
        """Give patches of the pictures that learning never sees; always the same."""
        return self.held_out.sample(count, seed=_SEED_OF_HELD_OUT, step=0)

    def encode(self, patches: Float[Tensor, "count pixels"]) -> Inference:
        """Infer the codes of patches of the run's scale, to a relative gap of 0.1 %."""
        return METHODS[self.settings.infer](patches, self.phi, lam=self.settings.lam, max_iter=1000, tol=1e-3)

    def evaluate(self, *, seconds: float) -> dict[str, float]:
        """Measure the dictionary on held-out patches.

        Args:
            seconds: Time spent so far, to be noted.

        Returns:
            A row of metrics: the terms of the energy per patch, L/β = Σ|X_jk| and the largest |X_jk| of the dictionary,
            active groups, and SNR in dB.
        """
        x = self.held_out_patches()
        codes = self.encode(x).codes
        terms = energy(x, self.phi, codes, self.settings.lam)
        X = dense.residual(self.phi)
        return {
            "step": self.step,
            "seconds": round(seconds, 2),
            "lr": cosine_decay(self.settings.lr, self.step, self.settings.steps),
            "energy": float(terms.total.mean()),
            "reconstruction": float(terms.reconstruction.mean()),
            "sparsity": float(terms.sparsity.mean()),
            "orthogonality": float(as_penalty(self.settings.penalty).value(X).sum()),
            "residual": float(X.abs().max()),
            "active_groups": float((group_norms(codes) > 0).sum(dim=1).double().mean()),
            "snr": snr(x, reconstruct(self.phi, codes)),
        }

    def save(self, folder: Path) -> None:
        """Write the settings, the metrics and, last, the dictionary; each file in one stroke.

        Raises:
            RunError: If a file cannot be written. A folder made for the purpose is then taken away again.
        """
        made = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"the folder {folder} could not be made: {error.strerror or error}") from error
        dictionary = Dictionary(
            phi=self.phi,
            initial_phi=self.initial_phi,
            step=self.step,
            patch_size=self.settings.patch,
            cutoff=self.whitening.cutoff,
            scale=self.train.scale,
        )
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
        if not math.isclose(dictionary.scale, run.train.scale, rel_tol=1e-6):
            raise RunError(f"the pictures of the run in {folder} have changed since it began; try a new run")
        run.phi, run.initial_phi, run.step = dictionary.phi, dictionary.initial_phi, dictionary.step
        # The metrics are written before the dictionary: after a kill between the two there is a row too many.
        run.metrics = [row for row in metrics if row["step"] <= run.step]
        return run

    def _pictures(self) -> ImageSplit:
        if self.settings.images is None:
            images = shipped_images()
        else:
            folder = load_folder(Path(self.settings.images))
            images, self.skipped = folder.images, folder.skipped
        return split_held_out(images, min_side=2 * self.settings.patch)


def holds_run(folder: Path) -> bool:
    """Say whether a folder holds a run."""
    return (folder / _DICTIONARY).is_file() and (folder / _SETTINGS).is_file()
