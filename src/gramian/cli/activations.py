"""The commands for activations and their options; each imports its modules when it runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gramian.cli.choices import FEATURE_DEFAULTS, METHODS, PRIORS
from gramian.cli.parsing import option, parse_groups
from gramian.errors import OptionError

__all__ = ["capture", "features"]


def capture(
    model: Annotated[
        Path, typer.Argument(help="A folder of the transformers library; with --arch, a file of weights.")
    ],
    inputs: Annotated[
        Path, typer.Argument(help="Texts (.txt by line, .jsonl, .parquet), pictures, or a folder of them.")
    ],
    layer: Annotated[list[str], typer.Option(help="Glob of module names, like 'encoder.layer.3'; repeatable.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the store.")],
    arch: Annotated[
        str | None, typer.Option(help="Network of a file of weights: timm:NAME or torchvision:NAME.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Numbers in the store: float32, bfloat16.")] = "float32",
    max_samples: Annotated[int | None, option("Largest number of samples.", "all")] = None,
    batch: Annotated[int, typer.Option(help="Texts or pictures in a batch.")] = 32,
    tokens: Annotated[int | None, option("Largest number of tokens of a text.", "the network's, at most 512")] = None,
    field: Annotated[str, typer.Option(help="Name of the text in .jsonl and .parquet.")] = "text",
    special: Annotated[
        bool, typer.Option("--special", help="Also keep tokens that stand for no text or patch, like [CLS].")
    ] = False,
    axes: Annotated[str | None, option("Axes of outputs.", "'b l', 'b p l' or 'b l h w'")] = None,
    device: Annotated[str, typer.Option(help="Device, by its name in torch.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted capture.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing store.")] = False,
) -> None:
    """Run a network over texts or pictures, and keep the activations of a layer.

    Ctrl-C keeps the whole shards; the same command with --resume continues after them.
    """
    for name, value in (("batch", batch), ("tokens", tokens), ("max-samples", max_samples)):
        if value is not None and value < 1:
            raise OptionError(f"--{name} must be at least 1; got {value}")

    from gramian.cli.capture import CaptureOptions, capture_activations

    options = CaptureOptions(
        layer=layer, arch=arch, field=field, tokens=tokens, special=special, axes=axes, batch=batch, dtype=dtype,
        max_samples=max_samples, device=device,
    )  # fmt: skip
    capture_activations(model, inputs, out, options, resume=resume, force=force)


def features(
    store: Annotated[
        Path | None, typer.Argument(help="A store that gramian capture wrote, or an array .npy or .safetensors.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for the result. [default: the next free of runs/001, …]", show_default=False
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out, or the latest in runs/.")
    ] = False,
    layer: Annotated[str | None, option("Layer of a store that has several.", "the only one")] = None,
    groups: Annotated[
        str | None,
        option(
            "Number of groups, or groups x size, as in 4096x4.", f"{FEATURE_DEFAULTS.groups}x{FEATURE_DEFAULTS.size}"
        ),
    ] = None,
    active: Annotated[
        float | None, option("Mean number of active groups of a sample.", FEATURE_DEFAULTS.target_active)
    ] = None,
    beta: Annotated[float | None, option("Strength β of the orthogonality penalty.", FEATURE_DEFAULTS.beta)] = None,
    lr: Annotated[float | None, option("Learning rate at the first step.", FEATURE_DEFAULTS.lr)] = None,
    steps: Annotated[int | None, option("Learning steps.", FEATURE_DEFAULTS.steps)] = None,
    seconds: Annotated[float | None, option("Learn for this many seconds instead of --steps.", "no limit")] = None,
    batch: Annotated[int | None, option("Samples in one step.", FEATURE_DEFAULTS.batch)] = None,
    prior: Annotated[str | None, option(f"Prior of codes: {', '.join(PRIORS)}.", FEATURE_DEFAULTS.prior)] = None,
    infer: Annotated[str | None, option(f"Inference: {', '.join(METHODS)}.", FEATURE_DEFAULTS.infer)] = None,
    device: Annotated[str | None, option("Device, by its name in torch.", FEATURE_DEFAULTS.device)] = None,
    spread: Annotated[
        int | None, option("Under torchrun: number of processes that share the groups.", FEATURE_DEFAULTS.spread)
    ] = None,
    seed: Annotated[int | None, option("Seed: the same seed gives the same dictionary.", FEATURE_DEFAULTS.seed)] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write the metrics for TensorBoard.")] = False,
) -> None:
    """Learn subspaces from the activations of a network.

    Ctrl-C saves the dictionary so far and stops; --resume continues from there.
    """
    n_groups, size = parse_groups(groups)
    if seconds is not None and steps is not None:
        raise OptionError(f"give --steps or --seconds; got {steps} and {seconds:g}")
    options: dict[str, Any] = {
        "store": None if store is None else str(store.resolve()),
        "layer": layer,
        "groups": n_groups,
        "size": size,
        "target_active": active,
        "beta": beta,
        "lr": lr,
        "steps": steps,
        "batch": batch,
        "prior": prior,
        "infer": infer,
        "device": device,
        "spread": spread,
        "seed": seed,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if not resume and store is None:
        raise OptionError("a new run needs STORE; got none; try gramian features STORE, or --resume")

    from gramian.cli.features import continue_features, start_features

    if not resume:
        start_features(options, out, seconds=seconds, tensorboard=tensorboard)
    elif options or seconds is not None:
        names = [*options, *([] if seconds is None else ["seconds"])]
        raise OptionError(
            f"--resume uses the settings of the run; got {', '.join(names)} as well; leave them out, or start a new "
            "run without --resume"
        )
    else:
        continue_features(out, tensorboard=tensorboard)
