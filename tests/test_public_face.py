"""The public face and the floors of the house, read from the sources: names, signatures, imports and docstrings."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import gramian
from tests.public_names import SLOW
from tests.public_names import public_names as listed_names

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "gramian"

ROOMS = (
    *(
        "errors",
        "typing",
        "torch_internals",
        "files",
        "options",
        "layout",
        "tables",
        "frozen",
        "penalties",
        "calculus",
        "kernels",
        "objective",
        "rules",
    ),
    *("foreach", "orthogonalize", "distributed", "selection", "inspection", "training", "weights", "integrations"),
    *("picture_files", "coding", "distributions", "report", "images", "activations", "cli"),
)
"""From the ground up. A room may import itself and those before it; CONTRIBUTING.md has the floors."""

APPLICATIONS = ("images", "activations")
"""They do not import each other."""

CORE = ROOMS[: ROOMS.index("weights")]

ALLOWED = {room: {"torch", "einops", "jaxtyping"} for room in CORE}
"""What a room may import from elsewhere, at the top of a module or inside a function."""
ALLOWED["kernels"] = ALLOWED["errors"] | {"llvmlite", "numpy", "triton"}  # where they are installed
ALLOWED["weights"] = ALLOWED["errors"] | {"numpy", "onnx", "safetensors"}
ALLOWED["integrations"] = ALLOWED["errors"] | {"lightning", "transformers"}
for _room in ("coding", "report", "images"):
    ALLOWED[_room] = ALLOWED["errors"] | {"numpy", "scipy", "sklearn", "skimage", "matplotlib", "PIL", "safetensors"}
ALLOWED["coding"] |= {"numba"}  # where it is installed
ALLOWED["activations"] = ALLOWED["errors"] | {"numpy", "scipy", "PIL"}
ALLOWED["activations"] |= {"pyarrow", "timm", "torchvision", "transformers"}  # networks and texts
ALLOWED["picture_files"] = ALLOWED["errors"] | {"numpy", "PIL"}
ALLOWED["distributions"] = ALLOWED["errors"]
ALLOWED["cli"] = ALLOWED["errors"] | {"rich", "typer"}

FACE = {
    "loss": {"phi": ..., "beta": 1.0, "penalty": "l1", "layout": None, "against": None, "against_beta": None},
    "value_and_grad": {
        "phi": ...,
        "beta": 1.0,
        "penalty": "l1",
        "layout": None,
        "against": None,
        "against_beta": None,
        "out": None,
    },
    "grad_group": {"phi": ..., "a": ..., "beta": 1.0, "penalty": "l1", "layout": None},
    "grad_vector": {"phi": ..., "a": ..., "b": ..., "beta": 1.0, "penalty": "l1", "layout": None},
    "grad_slice": {"phi": ..., "p": ..., "beta": 1.0, "penalty": "l1", "layout": None},
    "residual": {"phi": ..., "layout": None},
    "step_": {
        "phi": ...,
        "lr": ...,
        "beta": 1.0,
        "rule": "proximal",
        "penalty": "l1",
        "layout": None,
        "against": None,
        "against_beta": None,
    },
    "orthogonalize": {
        "phi": ...,
        "layout": None,
        "rule": "proximal",
        "penalty": "l1",
        "lr": 0.25,
        "tol": None,
        "max_steps": 1000,
    },
}
"""Parameters and defaults, as the documentation promises; `...` stands for none."""

MODULES = sorted(SOURCE.rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room(path: Path) -> str | None:
    """The part of the package that a module belongs to; None for the root."""
    parts = dotted(path).split(".")
    return parts[1] if len(parts) > 1 else None


def imported(path: Path) -> list[str]:
    """Every module that is imported anywhere in a file, `from a import b` as `a.b`."""
    names = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def public_names(path: Path) -> list[str] | None:
    for node in parsed(path).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    return None


def definitions(path: Path) -> list[ast.FunctionDef | ast.ClassDef]:
    """The public functions and classes that a module itself defines."""
    public = public_names(path) or []
    return [
        node for node in parsed(path).body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in public
    ]


class TestFace:
    def test_names(self) -> None:
        assert set(gramian.__all__) == {
            *FACE,
            "GramianError",
            "Layout",
            "Penalty",
            "attach",
            "calculus",
            "foreach",
            "inspect",
            "kernels",
            "orthogonalize_",
        }
        assert len(gramian.__all__) == len(set(gramian.__all__)) <= 17
        assert all(hasattr(gramian, name) for name in gramian.__all__)

    @pytest.mark.parametrize("name", FACE)
    def test_signatures(self, name) -> None:
        parameters = inspect.signature(getattr(gramian, name)).parameters.values()
        defaults = {each.name: ... if each.default is each.empty else each.default for each in parameters}
        assert defaults == FACE[name]
        for each in parameters:
            by_position = each.name in ("phi", "a", "b", "p")
            assert each.kind is (each.POSITIONAL_OR_KEYWORD if by_position else each.KEYWORD_ONLY)

    def test_the_list_of_public_names(self) -> None:
        listed = set((ROOT / "tests" / "public_names.txt").read_text(encoding="utf-8").split())
        names = set(listed_names())
        assert names == listed, (
            f"the public names must be those of tests/public_names.txt; new: {sorted(names - listed)}, removed: "
            f"{sorted(listed - names)}; if this is intended, try: "
            "python -m tests.public_names > tests/public_names.txt"
        )

    def test_version(self) -> None:
        (version,) = re.findall(r'^__version__ = "(.*)"$', (SOURCE / "__init__.py").read_text(), re.MULTILINE)
        assert gramian.__version__ == version
        project = (ROOT / "pyproject.toml").read_text()
        assert re.search(r'^dynamic = \["version"\]$', project, re.MULTILINE)
        assert re.search(r'^\[tool\.hatch\.version\]\npath = "src/gramian/__init__\.py"$', project, re.MULTILINE)

    def test_the_changelog_and_the_citation_name_the_version(self) -> None:
        released = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
        citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
        assert released is not None
        assert released[1] == gramian.__version__
        assert f"\nversion: {released[1]}\ndate-released: {released[2]}\n" in citation

    def test_typed(self) -> None:
        assert (SOURCE / "py.typed").exists()


class TestFloors:
    def test_every_module_has_a_room(self) -> None:
        assert {room(path) for path in MODULES} <= {None, *ROOMS}
        assert set(ALLOWED) == set(ROOMS)

    def test_imports_go_down_only(self) -> None:
        wrong = []
        for path in MODULES:
            here = room(path)
            inner = [name.split(".") for name in imported(path) if name.split(".")[0] == "gramian"]
            below = CORE if here is None else ROOMS[: ROOMS.index(here) + 1]
            if here in APPLICATIONS:
                below = [name for name in below if name == here or name not in APPLICATIONS]
            for parts in inner:
                # The root itself imports the whole core: only what stands on top of it may import the root.
                root = len(parts) == 1 or parts[1] not in ROOMS
                if not (here == "cli" if root else parts[1] in below):
                    wrong.append(f"{dotted(path)} imports {'.'.join(parts)}")
        assert not wrong

    def test_imports_from_elsewhere(self) -> None:
        for path in MODULES:
            outer = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names) - {"gramian"}
            assert outer <= ALLOWED[room(path) or "errors"], dotted(path)

    def test_the_walk_sees_imports(self) -> None:
        # Were it blind, all of the above would pass.
        assert "gramian.penalties.as_penalty" in imported(SOURCE / "rules" / "step.py")
        assert "skimage.data" in imported(SOURCE / "images" / "samples" / "images.py")
        assert "gramian.__version__" in imported(SOURCE / "cli" / "application.py")
        assert len(MODULES) > 20

    def test_private_parts_of_torch_are_used_in_one_module_only(self) -> None:
        private = re.compile(
            r"\btorch(\.\w+)*\._[a-z]|functorch|found_inf|_optimizer_step_|TORCHELASTIC|PrefixStore"
            r"|_orig_mod\b(?!\.)|_fsdp_wrapped|_checkpoint_wrapped|\._(modules|parameters|buffers)\b"
        )
        users = {dotted(path) for path in MODULES if private.search(path.read_text(encoding="utf-8"))}
        assert users == {"gramian.torch_internals"}

    def test_a_module_is_one_idea(self) -> None:
        for path in MODULES:
            assert path.stem not in {"utils", "helpers", "common", "misc"}
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, dotted(path)


class TestModules:
    """What ruff has no rule for: it holds docstrings, and that there is no assert."""

    def test_every_module_has_a_list_of_public_names(self) -> None:
        for path in MODULES:
            names = public_names(path)
            assert names is not None, f"{dotted(path)} has no __all__"
            assert len(names) == len(set(names)), dotted(path)
            assert not any(name.startswith("_") for name in names), dotted(path)

    def test_every_module_has_the_names_it_lists(self) -> None:
        for path in MODULES:
            if dotted(path) in SLOW:
                continue  # tests/integrations has this test of them
            module = importlib.import_module(dotted(path))
            assert all(hasattr(module, name) for name in module.__all__), dotted(path)

    def test_the_arguments_that_are_listed_are_those_that_there_are(self) -> None:
        for path in MODULES:
            for node in definitions(path):
                text = ast.get_docstring(node) or ""
                if isinstance(node, ast.FunctionDef) and "\nArgs:\n" in text:
                    section = re.split(r"\n\n", text.split("\nArgs:\n")[1])[0]
                    listed = re.findall(r"^    (?! )\**(\w+):", section, re.MULTILINE)
                    arguments = node.args
                    expected = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
                    assert listed == expected, node.name


def defined(name: str) -> ast.FunctionDef | ast.ClassDef:
    (node,) = [
        node for path in MODULES if room(path) in CORE for node in definitions(path) if named(node, path) == name
    ]
    return node


def named(node: ast.FunctionDef | ast.ClassDef, path: Path) -> str:
    """The name under which the root has it: its own, if the root imports it from this module or its package."""
    home = dotted(path)
    sources = [f"{module}.{node.name}" for module in (home, home.rpartition(".")[0])]
    return node.name if set(sources) & set(imported(SOURCE / "__init__.py")) else ""


class TestDocstringsOfTheFace:
    @pytest.mark.parametrize("name", FACE)
    def test_a_function_has_every_section(self, name) -> None:
        text = ast.get_docstring(defined(name)) or ""
        for section in ("Args", "Returns", "Raises", "Cost", "Examples"):
            assert f"\n{section}:\n" in text
        assert ">>> import torch, gramian" in text

    @pytest.mark.parametrize("name", ["Layout", "Penalty"])
    def test_a_class_has_an_example(self, name) -> None:
        assert "\nExamples:\n    >>> " in (ast.get_docstring(defined(name)) or "")

    @pytest.mark.parametrize("name", ["subgradient", "polyak", "proximal"])
    def test_a_rule_has_every_section(self, name) -> None:
        files = (SOURCE / "rules").glob("*.py")
        (node,) = [node for file in files for node in definitions(file) if node.name == name]
        text = ast.get_docstring(node) or ""
        for section in ("Args", "Returns", "Cost", "Examples"):
            assert f"\n{section}:\n" in text


EXTRAS = ("sklearn", "skimage", "matplotlib", "typer", "rich", "safetensors", "PIL")

WITHOUT_EXTRAS = f"""
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refusing())
import torch
import gramian

phi = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0))
before = gramian.loss(phi)
assert torch.equal(gramian.step_(phi, lr=0.25), before)
assert gramian.loss(phi) < before
assert gramian.orthogonalize(phi).converged
assert not set({EXTRAS}) & {{name.partition(".")[0] for name in sys.modules}}
assert not {{"gramian.coding", "gramian.images", "gramian.report", "gramian.cli"}} & set(sys.modules)
try:
    import sklearn
except ModuleNotFoundError:
    print("blocked, and done")
"""


def test_the_core_needs_no_extra() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "blocked, and done"
