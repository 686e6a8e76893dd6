"""The commands for learning runs and their options; each imports its modules when it runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gramian.cli.choices import (
    DEFAULTS,
    ENCODERS,
    FEATURE_DEFAULTS,
    METHODS,
    PENALTIES,
    PRIORS,
    RULES,
    SELECTIONS,
    UPDATES,
    WHITENINGS,
)
from gramian.cli.parsing import given, option, parse_groups
from gramian.errors import OptionError

__all__ = ["features", "learn", "report"]

_NUMBERED = "the next free of runs/001, runs/002 …"

Out = Annotated[Path | None, option("Folder for the result.", _NUMBERED, "--out", "-o")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or the latest in runs/.")]
Seconds = Annotated[float | None, option("Learn for this many seconds instead of --steps.", "no limit")]
Device = Annotated[str | None, option("Device, in PyTorch's notation.", DEFAULTS.device)]
Seed = Annotated[int | None, option("Seed: the same seed gives the same dictionary.", DEFAULTS.seed)]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write the metrics for TensorBoard.")]


def learn(
    images: Annotated[
        Path | None,
        option(
            "Folder of pictures, array (.npy, .npz) or film to learn from.",
            "12 pictures of scikit-image and scikit-learn",
        ),
    ] = None,
    out: Out = None,
    resume: Resume = False,
    groups: Annotated[
        str | None, option("Number of groups, or groups x size, as in 64x4.", f"{DEFAULTS.groups}x{DEFAULTS.size}")
    ] = None,
    size: Annotated[int | None, option("Atoms in a group.", DEFAULTS.size)] = None,
    patch: Annotated[int | None, option("Side of a patch, pixels.", DEFAULTS.patch)] = None,
    colour: Annotated[bool, typer.Option("--colour", help="Learn from colours instead of luminance.")] = False,
    whiten: Annotated[str | None, option(f"Whitening: {', '.join(WHITENINGS)}.", DEFAULTS.whiten)] = None,
    lam: Annotated[float | None, option("Sparsity λ: a larger λ gives fewer active groups.", DEFAULTS.lam)] = None,
    target_active: Annotated[
        float | None, option("Adapt λ to this mean number of active groups.", "λ is fixed")
    ] = None,
    beta: Annotated[float | None, option("Strength β of the orthogonality penalty.", DEFAULTS.beta)] = None,
    lr: Annotated[float | None, option("Learning rate at the first step.", DEFAULTS.lr)] = None,
    steps: Annotated[int | None, option("Learning steps.", DEFAULTS.steps)] = None,
    seconds: Seconds = None,
    batch: Annotated[int | None, option("Patches in one step.", DEFAULTS.batch)] = None,
    rule: Annotated[str | None, option(f"Update rule: {', '.join(RULES)}.", DEFAULTS.rule)] = None,
    penalty: Annotated[str | None, option(f"Penalty: {', '.join(PENALTIES)}.", DEFAULTS.penalty)] = None,
    update: Annotated[str | None, option(f"Update of the dictionary: {', '.join(UPDATES)}.", DEFAULTS.update)] = None,
    prior: Annotated[str | None, option(f"Prior of codes: {', '.join(PRIORS)}.", DEFAULTS.prior)] = None,
    infer: Annotated[str | None, option(f"Inference: {', '.join(METHODS)}.", DEFAULTS.infer)] = None,
    device: Device = None,
    spread: Annotated[
        int | None, option("Under torchrun: number of processes that share the groups.", DEFAULTS.spread)
    ] = None,
    seed: Seed = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Learn groups of atoms from natural images, and write a report with pictures.

    Ctrl-C saves the dictionary so far and stops; --resume continues from there. torchrun starts several processes for
    one run: torchrun --nproc-per-node=2 --no-python gramian learn.
    """
    n_groups, group_size = parse_groups(groups)
    if group_size is not None and size is not None:
        raise OptionError(f"the size of groups must be given once; got --groups {groups} and --size {size}")
    options = given(
        images=_absolute(images), groups=n_groups, size=group_size if size is None else size, patch=patch,
        colour=colour or None, whiten=whiten, lam=lam, target_active=target_active, beta=beta, lr=lr, steps=steps,
        batch=batch, rule=rule, penalty=penalty, update=update, prior=prior, infer=infer, device=device, spread=spread,
        seed=seed,
    )  # fmt: skip
    _check_options(options, seconds=seconds, resume=resume)

    from gramian.cli.runs.images import IMAGES
    from gramian.images.run import RunSettings

    _run(IMAGES, RunSettings, options, out, resume=resume, seconds=seconds, tensorboard=tensorboard)


def features(
    store: Annotated[
        Path | None, typer.Argument(help="A store that gramian capture wrote, or an array .npy or .safetensors.")
    ] = None,
    out: Out = None,
    resume: Resume = False,
    layer: Annotated[str | None, option("Layer of a store that has several.", "the only one")] = None,
    groups: Annotated[
        str | None,
        option(
            "Number of groups, or groups x size, as in 4096x4.", f"{FEATURE_DEFAULTS.groups}x{FEATURE_DEFAULTS.size}"
        ),
    ] = None,
    active: Annotated[int | None, option("Mean number of active groups of a sample.", FEATURE_DEFAULTS.active)] = None,
    encoder: Annotated[str | None, option(f"Encoder: {', '.join(ENCODERS)}.", FEATURE_DEFAULTS.encoder)] = None,
    select: Annotated[
        str | None, option(f"Selection of active groups: {', '.join(SELECTIONS)}.", FEATURE_DEFAULTS.select)
    ] = None,
    rate: Annotated[float | None, option("False discovery rate of --select fdr.", FEATURE_DEFAULTS.rate)] = None,
    beta: Annotated[
        float | None,
        option("Strength β of the orthogonality penalty; inf keeps frames exactly orthonormal.", FEATURE_DEFAULTS.beta),
    ] = None,
    patience: Annotated[
        int | None, option("Steps without activity after which a group is replaced.", FEATURE_DEFAULTS.patience)
    ] = None,
    lr: Annotated[float | None, option("Largest learning rate of Adam; it falls to 0.", FEATURE_DEFAULTS.lr)] = None,
    warm_up: Annotated[
        int | None, option("Steps over which the learning rate rises.", FEATURE_DEFAULTS.warm_up)
    ] = None,
    steps: Annotated[int | None, option("Learning steps.", FEATURE_DEFAULTS.steps)] = None,
    seconds: Seconds = None,
    batch: Annotated[int | None, option("Samples in one step.", FEATURE_DEFAULTS.batch)] = None,
    device: Device = None,
    seed: Seed = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Learn features that are subspaces from the activations of a network.

    Ctrl-C saves the dictionary so far and stops; --resume continues from there. torchrun starts several processes,
    which share the samples of a step: torchrun --nproc-per-node=2 --no-python gramian features.
    """
    n_groups, size = parse_groups(groups)
    options = given(
        store=_absolute(store), layer=layer, groups=n_groups, size=size, active=active, encoder=encoder, select=select,
        rate=rate, beta=beta, patience=patience, lr=lr, warm_up=warm_up, steps=steps, batch=batch,
        device=device, seed=seed,
    )  # fmt: skip
    _check_options(options, seconds=seconds, resume=resume)
    if not resume and store is None:
        raise OptionError("a new run needs STORE; got none; try gramian features STORE, or --resume")

    from gramian.activations.run import FeatureSettings
    from gramian.cli.runs.features import ACTIVATIONS

    _run(ACTIVATIONS, FeatureSettings, options, out, resume=resume, seconds=seconds, tensorboard=tensorboard)


def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
) -> None:
    """Write the report of a run, or write it again."""
    from gramian.cli.runs.report import write_report

    write_report(folder)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _check_options(options: dict[str, Any], *, seconds: float | None, resume: bool) -> None:
    """Check that the duration is given once, and that a run that is resumed gets no settings."""
    if seconds is not None and "steps" in options:
        raise OptionError(
            f"the duration must be given once, by --steps or --seconds; got {options['steps']} and {seconds:g}"
        )
    names = [name.replace("_", "-") for name in options] + ([] if seconds is None else ["seconds"])
    if resume and names:
        listed = ", ".join("STORE" if name == "store" else f"--{name}" for name in names)
        raise OptionError(
            f"--resume uses the settings of the run; got {listed} as well; leave them out, or start a new run without "
            "--resume"
        )


def _run(
    application: Any,
    settings: Any,
    options: dict[str, Any],
    out: Path | None,
    *,
    resume: bool,
    seconds: float | None,
    tensorboard: bool,
) -> None:
    from gramian.cli.runs.loop import continue_run, start_run

    if resume:
        continue_run(application, out, tensorboard=tensorboard)
    else:
        start_run(application, settings(**options), out, seconds=seconds, tensorboard=tensorboard)
