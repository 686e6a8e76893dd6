"""The commands and their options; each command imports its modules when it runs."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from gramian import __version__
from gramian.cli.choices import DEFAULTS, PENALTIES, RULES
from gramian.cli.parsing import given, option, parse_groups
from gramian.cli.runs.commands import features, learn, report
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


application.command()(learn)
application.command()(features)
application.command()(report)


@application.command()
def encode(
    dictionary: Annotated[Path, typer.Argument(help="A dictionary file, or the folder of a run.")],
    data: Annotated[
        Path,
        typer.Argument(help="A picture, a folder of pictures, an array or a film; or the activations of a network."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Pictures: folder for the codes, one file for each picture. Activations: NAME.safetensors.",
        ),
    ],
    stride: Annotated[int | None, option("Pictures: distance between patches, pixels.", "half a patch")] = None,
    tol: Annotated[
        float | None, option("Pictures: relative duality gap at which a patch has converged.", "1e-4")
    ] = None,
    layer: Annotated[str | None, option("Activations: layer of a store that has several.", "the only one")] = None,
    infer: Annotated[
        bool, typer.Option("--infer", help="Activations: infer the codes, instead of one pass of the encoder.")
    ] = False,
    device: Annotated[str | None, option("Activations: device, in PyTorch's notation.", "cpu")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Encode pictures, or the activations of a network, with a learned dictionary."""
    if stride is not None and stride < 1:
        raise OptionError(f"--stride must be at least 1; got {stride}; try half a patch")
    if tol is not None and not 0 < tol < math.inf:
        raise OptionError(f"--tol must be positive and finite; got {tol:g}; try 1e-4")

    from gramian.cli.encode import encode_data

    encode_data(
        dictionary, data, out, given(stride=stride, tol=tol), given(layer=layer, infer=infer or None, device=device),
        force=force,
    )  # fmt: skip


@application.command()
def decode(
    dictionary: Annotated[Path, typer.Argument(help="The dictionary that encoded, or the folder of its run.")],
    codes: Annotated[list[Path], typer.Argument(help="Files that gramian encode has written, or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures; for activations NAME.npy.")],
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Reconstruct pictures, or the activations of a network, from their codes."""
    from gramian.cli.encode import decode_data

    decode_data(dictionary, codes, out, force=force)


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
        Path | None,
        option(
            "Folder of pictures, array (.npy, .npz) or film to learn from.",
            "12 pictures of scikit-image and scikit-learn",
        ),
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
    """Compare ways of learning on held-out patches; with DICTIONARIES, find which subspaces they share.

    Without dictionaries: learn with the penalty, without it, without groups and with scikit-learn. With two or more:
    match the subspaces of seeds, layers or tools by principal angles, and compare with random subspaces.
    """
    n_groups, group_size = parse_groups(groups)
    options = given(
        images=None if images is None else str(images.resolve()), groups=n_groups, size=group_size, patch=patch,
        lam=lam, beta=beta, steps=steps,
    )  # fmt: skip
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

    chosen: dict[str, Any] = {"steps": _COMPARED_STEPS, **options, **given(seed=seed)}
    compare_dictionaries(RunSettings(**chosen), out, force=force)


def _check_dictionaries(dictionaries: list[Path], options: dict[str, Any]) -> None:
    if options:
        raise OptionError(
            f"dictionaries are matched as they are, without learning; got --{', --'.join(options)} as well; leave "
            "them out"
        )
    if len(dictionaries) < 2:
        raise OptionError(
            f"there must be two or more dictionaries to compare; got {dictionaries[0]} only; try gramian compare A B"
        )


@application.command()
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
        str | None, typer.Option(help="Architecture for a file of weights: timm:NAME or torchvision:NAME.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Dtype of the store: float32 or bfloat16.")] = "float32",
    max_samples: Annotated[int | None, option("Largest number of samples.", "all")] = None,
    batch: Annotated[int, typer.Option(help="Texts or pictures in a batch.")] = 32,
    tokens: Annotated[int | None, option("Largest number of tokens of a text.", "the network's, at most 512")] = None,
    field: Annotated[str, typer.Option(help="Field of the text in .jsonl and .parquet.")] = "text",
    special: Annotated[
        bool, typer.Option("--special", help="Also keep tokens that represent no text or patch, like [CLS].")
    ] = False,
    axes: Annotated[str | None, option("Axes of outputs.", "'b l', 'b p l' or 'b l h w'")] = None,
    device: Annotated[str, typer.Option(help="Device, in PyTorch's notation.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted capture.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing store.")] = False,
) -> None:
    """Run a network over texts or pictures, and store the activations of a layer.

    Ctrl-C keeps complete shards; the same command with --resume continues after them.
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


@application.command()
def inspect(
    files: Annotated[list[Path], typer.Argument(help="Files: safetensors, an index of them, .npz, .npy, .pt, .onnx.")],
    select: Annotated[list[str] | None, typer.Option(help="Glob of tensor names; repeatable.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Glob of names to leave out; repeatable.")] = None,
    layout: Annotated[
        list[str] | None, typer.Option(help="GLOB=PATTERN, then sizes: '*.q.weight=(h d) i -> i h d; h=8'.")
    ] = None,
    before: Annotated[Path | None, typer.Option(help="An earlier state of the file, to compare with.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with histograms and Gram pictures, NAME.html.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing page.")] = False,
) -> None:
    """Show how far the weights in files are from orthonormal.

    In a terminal, columns that do not fit are left out; in a pipe or a file, each row is one line with all columns.
    """
    from gramian.cli.weights import inspect_files

    inspect_files(files, select or [], exclude or [], layout or [], before=before, as_json=json, page=html, force=force)


@application.command()
def orthogonalize(
    source: Annotated[Path, typer.Argument(metavar="IN", help="File: safetensors, an index of them, .npz, .npy, .pt.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write; a folder for sharded safetensors.")],
    select: Annotated[list[str] | None, typer.Option(help="Glob of tensor names; repeatable.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Glob of names to leave out; repeatable.")] = None,
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

    rewrite(
        source, out, select or [], exclude or [], layout or [], rule=rule, penalty=penalty, max_steps=max_steps,
        force=force,
    )  # fmt: skip


@application.command()
def explain(
    length: Annotated[int, typer.Option("--l", help="Length of a vector.")] = 5,
    m: Annotated[int, typer.Option("--m", help="Number of groups.")] = 2,
    n: Annotated[int, typer.Option("--n", help="Vectors in a group.")] = 3,
    penalty: Annotated[str, typer.Option(help=f"Penalty: {', '.join(PENALTIES)}.")] = "l1",
    vector: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="A B", help="Also show ∂L/∂Φ_ab in numbers and words, group A and vector B from 0."),
    ] = None,
    beta: Annotated[float, typer.Option(help="Strength of the penalty.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 0,
    latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX document.")] = False,
    fragment: Annotated[
        bool, typer.Option("--fragment", help="With --latex: without the preamble, to include in a document.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """State the loss and its derivative, derive it step by step, and check every step on random numbers."""
    from gramian.cli.explain.command import explain_derivation

    explain_derivation(
        length, m, n, penalty, vector, beta=beta, seed=seed, latex=latex, fragment=fragment, markdown=markdown
    )
