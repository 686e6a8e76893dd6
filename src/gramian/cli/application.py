"""The commands and their options."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gramian import __version__
from gramian.cli.learn import continue_run, start_run
from gramian.cli.weights import inspect_files, rewrite
from gramian.coding.estimator import METHODS
from gramian.coding.learning_run import RunSettings
from gramian.errors import OptionError
from gramian.penalties import PENALTIES
from gramian.rules import RULES

__all__ = ["application"]

application = typer.Typer(
    name="gramian",
    help="Keep groups of weights orthogonal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_DEFAULT = RunSettings()


def _option(text: str, default: object) -> Any:
    return typer.Option(help=f"{text} [default: {default}]", show_default=False)


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
    images: Annotated[Path | None, _option("Folder of pictures to learn from.", "12 that packages ship")] = None,
    out: Annotated[Path | None, _option("Folder for the result.", "the next free of runs/001, runs/002 …")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, or with the latest in runs/.")
    ] = False,
    groups: Annotated[int | None, _option("Number of groups.", _DEFAULT.groups)] = None,
    size: Annotated[int | None, _option("Atoms in a group.", _DEFAULT.size)] = None,
    patch: Annotated[int | None, _option("Side of a patch, pixels.", _DEFAULT.patch)] = None,
    lam: Annotated[float | None, _option("Sparsity λ: larger, fewer active groups.", _DEFAULT.lam)] = None,
    beta: Annotated[float | None, _option("Strength β of the orthogonality penalty.", _DEFAULT.beta)] = None,
    lr: Annotated[float | None, _option("Learning rate at the first step.", _DEFAULT.lr)] = None,
    steps: Annotated[int | None, _option("Learning steps.", _DEFAULT.steps)] = None,
    batch: Annotated[int | None, _option("Patches in a step.", _DEFAULT.batch)] = None,
    rule: Annotated[str | None, _option(f"Update rule: {', '.join(RULES)}.", _DEFAULT.rule)] = None,
    penalty: Annotated[str | None, _option(f"Penalty: {', '.join(PENALTIES)}.", _DEFAULT.penalty)] = None,
    infer: Annotated[str | None, _option(f"Inference: {', '.join(METHODS)}.", _DEFAULT.infer)] = None,
    seed: Annotated[int | None, _option("Seed: the same seed gives the same dictionary.", _DEFAULT.seed)] = None,
) -> None:
    """Learn groups of atoms from natural images, and leave a report with pictures.

    Ctrl-C stops cleanly and keeps what was learned; --resume goes on from there.
    """
    chosen: dict[str, Any] = {
        "images": None if images is None else str(images.resolve()),
        "groups": groups,
        "size": size,
        "patch": patch,
        "lam": lam,
        "beta": beta,
        "lr": lr,
        "steps": steps,
        "batch": batch,
        "rule": rule,
        "penalty": penalty,
        "infer": infer,
        "seed": seed,
    }
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if not resume:
        start_run(RunSettings(**chosen), out)
    elif chosen:
        raise OptionError(
            f"--resume goes on with the settings of the run; got --{', --'.join(chosen)} as well; leave them out, or "
            "start a new run without --resume"
        )
    else:
        continue_run(out)


@application.command()
def inspect(
    files: Annotated[list[Path], typer.Argument(help="Files: safetensors, an index of them, .npz, .pt.")],
    select: Annotated[list[str] | None, typer.Option(help="Glob of tensor names; may be given again.")] = None,
    layout: Annotated[
        list[str] | None, typer.Option(help="GLOB=PATTERN; sizes follow: '*.q.weight=(h d) i -> i h d; h=8'.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page with histograms and Gram pictures.")] = None,
) -> None:
    """Show how far the weights in files are from orthonormal."""
    inspect_files(files, select or [], layout or [], as_json=json, page=html)


@application.command()
def orthogonalize(
    source: Annotated[Path, typer.Argument(metavar="IN", help="File: safetensors, an index of them, .npz, .pt.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write; a folder for sharded safetensors.")],
    select: Annotated[list[str] | None, typer.Option(help="Glob of tensor names; may be given again.")] = None,
    layout: Annotated[
        list[str] | None, typer.Option(help="GLOB=PATTERN; sizes follow: '*.q.weight=(h d) i -> i h d; h=8'.")
    ] = None,
    rule: Annotated[str, typer.Option(help=f"Update rule: {', '.join(RULES)}.")] = "proximal",
    penalty: Annotated[str, typer.Option(help=f"Penalty: {', '.join(PENALTIES)}.")] = "l1",
    max_steps: Annotated[int, typer.Option(help="Stop after as many steps in any case.")] = 1000,
    force: Annotated[bool, typer.Option("--force", help="Replace what --out names.")] = False,
) -> None:
    """Make the weights in a file orthonormal, and keep everything else in it byte for byte."""
    rewrite(source, out, select or [], layout or [], rule=rule, penalty=penalty, max_steps=max_steps, force=force)
