"""The test suite on the versions that pyproject.toml allows, `make test-versions`, and the release, `make release`.

One environment alone: `nox -s "tests(3.10, lowest)"`. uv makes each environment and downloads a Python that is
missing. A Python that cannot be had is an error, not a skip. On Linux, torch from PyPI brings CUDA, about 3 GB to
download for each version; `UV_TORCH_BACKEND=cpu` selects builds without CUDA, from the index of PyTorch.
"""

import shutil
import subprocess
from pathlib import Path

import nox
import uv

OLDEST = "3.10"
CANDIDATES = ("3.14", "3.13", "3.12", "3.11")

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["tests"]


def runs(version: str) -> bool:
    """Say whether this machine has a Python; a shim of pyenv that only prints an error does not count."""
    program = shutil.which(f"python{version}")
    return program is not None and subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0


NEWEST = next(filter(runs, CANDIDATES), CANDIDATES[0])
"""The newest Python on this machine."""

INSTALL = {
    # The lower bounds in pyproject.toml: torch 2.6, numpy 1.26. matplotlib 3.9 warns with a newer pyparsing.
    "lowest": ["--resolution", "lowest-direct", "pyparsing>=3.1,<3.3"],
    "pinned": ["-c", "constraints.txt"],
    "torch 2.6": ["torch==2.6.*", "numpy>=2"],
    "latest": ["--upgrade"],
}
"""Arguments of `uv pip install` that decide the versions of everything but Python."""

MATRIX = [
    nox.param(python, versions, id=f"{python}, {versions}")
    for python, versions in [
        (OLDEST, "lowest"),
        (OLDEST, "pinned"),
        (NEWEST, "torch 2.6"),
        (NEWEST, "pinned"),
        (NEWEST, "latest"),
    ]
]


@nox.session
@nox.parametrize("python,versions", MATRIX)
def tests(session: nox.Session, versions: str) -> None:
    """Run the test suite; arguments after -- go to pytest."""
    session.install("-e", ".[cli,fast,test]", *INSTALL[versions])
    session.run(
        "python",
        "-c",
        "import platform, numpy, torch; print('Python', platform.python_version(), "
        "'torch', torch.__version__, 'numpy', numpy.__version__)",
    )
    session.run("python", "-m", "pytest", "-m", "not slow and not gpu", *(session.posargs or ["-n", "auto"]))


@nox.session(python=[OLDEST, NEWEST])
def release(session: nox.Session) -> None:
    """Build wheel and sdist, check them, install the wheel alone, then with its extras, and run its examples.

    Arguments after -- go to the installation, such as `-c /path/to/constraints.txt`.
    """
    program, folder = uv.find_uv_bin(), Path(session.create_tmp()).resolve()
    session.run(program, "build", "--quiet", "--clear", "--out-dir", str(folder / "dist"), external=True)
    files = sorted(map(str, (folder / "dist").glob("gramian-*")))
    session.run(program, "tool", "run", "twine", "check", "--strict", *files, external=True)
    (wheel,) = (file for file in files if file.endswith(".whl"))
    empty = folder / "empty"  # from there only the installed package can be imported
    empty.mkdir(exist_ok=True)
    session.install(wheel, *session.posargs)
    with session.chdir(empty):
        session.run("python", "-c", ALONE)
    session.install(f"gramian[cli,fast] @ file://{wheel}", "pytest", *session.posargs)
    with session.chdir(empty):
        session.run("gramian", "--version")
        session.run("python", "-m", "pytest", "-q", "--doctest-modules", *OPTIONS, "--pyargs", "gramian")


ALONE = """
import gramian, torch
result = gramian.orthogonalize(torch.randn(64, 8, 4))
assert result.converged and gramian.residual(result.phi).abs().max() < 1e-5, result
"""
"""What must work with torch, einops and jaxtyping alone."""

OPTIONS = [
    "-o",
    "doctest_optionflags=NORMALIZE_WHITESPACE ELLIPSIS",
    "--doctest-ignore-import-errors",  # integrations import libraries that the extras do not install
]
