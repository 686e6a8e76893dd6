"""The commands and their options; each command imports its modules when it runs."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from gramian import __version__
from gramian.cli.activations import capture, features
from gramian.cli.choices import DEFAULTS, METHODS, PENALTIES, PRIORS, RULES, UPDATES, WHITENINGS
from gramian.cli.parsing import option, parse_groups
from gramian.errors import OptionError

__all__ = ["application"]

application = typer.Typer(
    name="gramian",
    help="Keep groups of weights orthogonal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_TABLE = Path("compare.md")
_COMPARED_STEPS = 1000


def _version(value: bool) -> bool:
    if value:
        typer.echo(f"gramian {__version__}")
        raise typer.Exit
    return value


@application.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@application.command()
def learn(
    images: Annotated[
        Path | None, option("Folder of pictures, array (.npy, .npz) or film to learn from.", "12 that packages ship")
    ] = None,
    out: Annotated[Path | None, option("Folder for the result.", "the next free of runs/001, runs/002 …")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out, or the latest in runs/.")
    ] = False,
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
    seconds: Annotated[float | None, option("Learn for this many seconds instead of --steps.", "no limit")] = None,
    batch: Annotated[int | None, option("Patches in one step.", DEFAULTS.batch)] = None,
    rule: Annotated[str | None, option(f"Update rule: {', '.join(RULES)}.", DEFAULTS.rule)] = None,
    penalty: Annotated[str | None, option(f"Penalty: {', '.join(PENALTIES)}.", DEFAULTS.penalty)] = None,
    update: Annotated[str | None, option(f"Update of the dictionary: {', '.join(UPDATES)}.", DEFAULTS.update)] = None,
    prior: Annotated[str | None, option(f"Prior of codes: {', '.join(PRIORS)}.", DEFAULTS.prior)] = None,
    infer: Annotated[str | None, option(f"Inference: {', '.join(METHODS)}.", DEFAULTS.infer)] = None,
    device: Annotated[str | None, option("Device, by its name in torch.", DEFAULTS.device)] = None,
    spread: Annotated[
        int | None, option("Under torchrun: number of processes that share the groups.", DEFAULTS.spread)
    ] = None,
    seed: Annotated[int | None, option("Seed: the same seed gives the same dictionary.", DEFAULTS.seed)] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write the metrics for TensorBoard.")] = False,
) -> None:
    """Learn groups of atoms from natural images, and write a report with pictures.

    Ctrl-C saves the dictionary so far and stops; --resume continues from there. torchrun starts several processes for
    one run: torchrun --nproc-per-node=2 --no-python gramian learn.
    """
    n_groups, group_size = parse_groups(groups)
    if group_size is not None and size is not None:
        raise OptionError(f"the size of groups must be given once; got --groups {groups} and --size {size}")
    if seconds is not None and steps is not None:
        raise OptionError(f"give --steps or --seconds; got {steps} and {seconds:g}")
    options: dict[str, Any] = {
        "images": None if images is None else str(images.resolve()),
        "groups": n_groups,
        "size": group_size if size is None else size,
        "patch": patch,
        "colour": colour or None,
        "whiten": whiten,
        "lam": lam,
        "target_active": target_active,
        "beta": beta,
        "lr": lr,
        "steps": steps,
        "batch": batch,
        "rule": rule,
        "penalty": penalty,
        "update": update,
        "prior": prior,
        "infer": infer,
        "device": device,
        "spread": spread,
        "seed": seed,
    }
    options = {name: value for name, value in options.items() if value is not None}

    from gramian.cli.learn import continue_run, start_run
    from gramian.images.run import RunSettings

    if not resume:
        start_run(RunSettings(**options), out, seconds=seconds, tensorboard=tensorboard)
    elif options or seconds is not None:
        names = [name.replace("_", "-") for name in options] + (["seconds"] if seconds is not None else [])
        raise OptionError(
            f"--resume uses the settings of the run; got --{', --'.join(names)} as well; leave them out, or "
            "start a new run without --resume"
        )
    else:
        continue_run(out, tensorboard=tensorboard)


@application.command()
def encode(
    dictionary: Annotated[Path, typer.Argument(help="A dictionary file, or the folder of a run.")],
    images: Annotated[Path, typer.Argument(help="A picture, a folder of pictures, an array or a film.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the codes, one file for each picture.")],
    stride: Annotated[int | None, option("Distance between patches, pixels.", "half a patch")] = None,
    tol: Annotated[float, typer.Option(help="Relative duality gap at which a patch has converged.")] = 1e-4,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Encode pictures with a learned dictionary."""
    if stride is not None and stride < 1:
        raise OptionError(f"--stride must be at least 1; got {stride}; try half a patch")
    if not 0 < tol < math.inf:
        raise OptionError(f"--tol must be positive and finite; got {tol:g}; try 1e-4")

    from gramian.cli.encode import encode_images

    encode_images(dictionary, images, out, stride=stride, tol=tol, force=force)


@application.command()
def decode(
    dictionary: Annotated[Path, typer.Argument(help="The dictionary that made the codes, or the folder of its run.")],
    codes: Annotated[list[Path], typer.Argument(help="Files that gramian encode has written, or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")],
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Reconstruct pictures from their codes."""
    from gramian.cli.encode import decode_codes

    decode_codes(dictionary, codes, out, force=force)


@application.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
) -> None:
    """Write the report of a run again."""
    from gramian.cli.learn import write_report

    write_report(folder)


@application.command()
def compare(
    dictionaries: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Dictionaries to match: folders of runs, .safetensors, .npy [groups, size, length].",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None, option("Folder of pictures, array (.npy, .npz) or film to learn from.", "12 that packages ship")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the table, in Markdown.")] = _TABLE,
    groups: Annotated[
        str | None, option("Number of groups, or groups x size, as in 64x4.", f"{DEFAULTS.groups}x{DEFAULTS.size}")
    ] = None,
    patch: Annotated[int | None, option("Side of a patch, pixels.", DEFAULTS.patch)] = None,
    lam: Annotated[float | None, option("Sparsity λ.", DEFAULTS.lam)] = None,
    beta: Annotated[float | None, option("Strength β of the orthogonality penalty.", DEFAULTS.beta)] = None,
    steps: Annotated[int | None, option("Learning steps of each dictionary.", _COMPARED_STEPS)] = None,
    seed: Annotated[int | None, option("Seed.", DEFAULTS.seed)] = None,
    tensor: Annotated[
        str | None, option("Dictionaries: name of the tensor in the files.", "phi, or the only one")
    ] = None,
    layout: Annotated[str | None, option("Dictionaries: layout of arrays of other tools.", "m n l -> l m n")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing table.")] = False,
) -> None:
    """Compare ways to learn on held-out patches; or, with DICTIONARIES, which of their subspaces are the same.

    Without dictionaries: learn with the penalty, without it, without groups and with scikit-learn. With two or more:
    match the subspaces of seeds, layers or tools by principal angles, beside random subspaces.
    """
    n_groups, group_size = parse_groups(groups)
    options: dict[str, Any] = {
        "images": None if images is None else str(images.resolve()),
        "groups": n_groups,
        "size": group_size,
        "patch": patch,
        "lam": lam,
        "beta": beta,
        "steps": steps,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if dictionaries:
        _check_dictionaries(dictionaries, options)

        from gramian.cli.compare import compare_subspaces

        compare_subspaces(
            dictionaries, out, tensor=tensor, layout=layout, seed=DEFAULTS.seed if seed is None else seed, force=force
        )
        return
    if tensor is not None or layout is not None:
        raise OptionError("--tensor and --layout need dictionaries to read; got none; try gramian compare A B")

    from gramian.cli.compare import compare_dictionaries
    from gramian.images.run import RunSettings

    options = {"steps": _COMPARED_STEPS, **options} | ({} if seed is None else {"seed": seed})
    compare_dictionaries(RunSettings(**options), out, force=force)


def _check_dictionaries(dictionaries: list[Path], options: dict[str, Any]) -> None:
    if options:
        raise OptionError(
            f"dictionaries are matched as they are, without learning; got --{', --'.join(options)} as well; leave "
            "them out"
        )
    if len(dictionaries) < 2:
        raise OptionError(f"two or more dictionaries are compared; got {dictionaries[0]} only; try another beside it")


application.command()(capture)
application.command()(features)


@application.command()
def inspect(
    files: Annotated[list[Path], typer.Argument(help="Files: safetensors, an index of them, .npz, .pt.")],
    select: Annotated[list[str] | None, typer.Option(help="Glob of tensor names; repeatable.")] = None,
    layout: Annotated[
        list[str] | None, typer.Option(help="GLOB=PATTERN, then sizes: '*.q.weight=(h d) i -> i h d; h=8'.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with histograms and Gram pictures, NAME.html.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing page.")] = False,
) -> None:
    """Show how far the weights in files are from orthonormal."""
    from gramian.cli.weights import inspect_files

    inspect_files(files, select or [], layout or [], as_json=json, page=html, force=force)


@application.command()
def orthogonalize(
    source: Annotated[Path, typer.Argument(metavar="IN", help="File: safetensors, an index of them, .npz, .pt.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write; a folder for sharded safetensors.")],
    select: Annotated[list[str] | None, typer.Option(help="Glob of tensor names; repeatable.")] = None,
    layout: Annotated[
        list[str] | None, typer.Option(help="GLOB=PATTERN, then sizes: '*.q.weight=(h d) i -> i h d; h=8'.")
    ] = None,
    rule: Annotated[str, typer.Option(help=f"Update rule: {', '.join(RULES)}.")] = "proximal",
    penalty: Annotated[str, typer.Option(help=f"Penalty: {', '.join(PENALTIES)}.")] = "l1",
    max_steps: Annotated[int, typer.Option(help="Largest number of steps.")] = 1000,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the output files if they exist, and no others.")
    ] = False,
) -> None:
    """Make the weights in a file orthonormal; copy all other bytes of the file unchanged."""
    if max_steps < 0:
        raise OptionError(f"--max-steps must be at least 0; got {max_steps}")

    from gramian.cli.weights import rewrite

    rewrite(source, out, select or [], layout or [], rule=rule, penalty=penalty, max_steps=max_steps, force=force)


@application.command()
def explain(
    length: Annotated[int, typer.Option("--l", help="Length of a vector.")] = 5,
    m: Annotated[int, typer.Option("--m", help="Number of groups.")] = 2,
    n: Annotated[int, typer.Option("--n", help="Vectors in a group.")] = 3,
    penalty: Annotated[str, typer.Option(help=f"Penalty: {', '.join(PENALTIES)}.")] = "l1",
    vector: Annotated[
        tuple[int, int] | None, typer.Option(metavar="A B", help="Also show ∂L/∂Φ_ab, group A and vector B from 0.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 0,
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Derive the gradient step by step, and check every line numerically."""
    from gramian.cli.explain import explain_derivation

    explain_derivation(length, m, n, penalty, vector, seed=seed, latex=latex, markdown=markdown)
