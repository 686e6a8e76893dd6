"""The code of the cookbook, and of the pages before it, section by section, as a reader would run it.

* Fences of Python run one after the other in a namespace of the section; a fence of text after one is what it prints.
  If a section loads a large library, or compiles, each fence is a process of its own.
* A fence of Python with a title is a file, which a command in a fence of sh runs: torchrun, python or gramian. A fence
  of text after the commands is what the last of them prints.
"""

import ast
import contextlib
import doctest
import io
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.documentation.sections import Fence, Section, sections
from tests.torchrun import ENVIRONMENT, TORCHRUN

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "start.md", ROOT / "docs" / "choose.md", *sorted((ROOT / "docs" / "cookbook").glob("*.md"))]

CORE = {"gramian", "torch", "numpy", "sklearn"}
PROGRAMS = {
    "torchrun": TORCHRUN,
    "python": [sys.executable],
    "gramian": [sys.executable, "-c", "from gramian.cli import main; main()"],
}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def libraries(section: Section) -> set[str]:
    """Return the packages that the code of a section imports, beside those that every test needs."""
    nodes = list(ast.walk(ast.parse(section.code("python"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    outside = {name.split(".")[2] if name.startswith("gramian.integrations.") else name.split(".")[0] for name in names}
    return outside - CORE - set(sys.stdlib_module_names)


def commands(fence: Fence) -> list[list[str]]:
    """Return the commands of a fence of sh that the tests run: not those that install something."""
    lines = [shlex.split(line, comments=True) for line in fence.text.splitlines()]
    return [[*PROGRAMS[words[0]], *words[1:]] for words in lines if words and words[0] in PROGRAMS]


def cases() -> list:
    """Return a case for each section with code: slow if it loads a large library, compiles or starts processes."""
    found = []
    for page in PAGES:
        for section in sections(page):
            runs = [command for fence in section.fences if fence.language == "sh" for command in commands(fence)]
            if not (section.code("python") or runs):
                continue
            marks = []
            if runs or libraries(section) or "torch.compile" in section.code("python"):
                marks.append(pytest.mark.slow)
            if any(TORCHRUN[-1] in command for command in runs):
                marks.append(pytest.mark.dist)
            found.append(pytest.param(section, page, id=f"{page.stem}: {section.heading}", marks=marks))
    return found


def compare(page: Path, expected: Fence, printed: str) -> None:
    """Compare what was printed with what the page says, by the rules of doctest."""
    if not doctest.OutputChecker().check_output(expected.text, printed, OPTIONS):
        pytest.fail(f"{page}, line {expected.line}: expected\n{expected.text}\ngot\n{printed}")


@pytest.mark.parametrize(("section", "page"), cases())
def test_a_recipe(section, page, tmp_path, monkeypatch) -> None:
    for library in sorted(libraries(section)):
        pytest.importorskip(library)
    code = section.code("python")
    if "torch.compile" in code and not shutil.which("g++"):
        pytest.skip("torch.compile needs a compiler for C++")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    namespace, printed = {"__name__": "__main__"}, ""
    # The run-time check of shapes cannot be compiled, and the warnings of libraries about themselves are no errors.
    in_a_process = "torch.compile" in code or bool(libraries(section))
    for fence in section.fences:
        if fence.language == "python" and (fence.title or in_a_process):
            file = tmp_path / (fence.title or "recipe.py")
            file.write_text(fence.text, encoding="utf-8")
            if in_a_process:
                printed = run([sys.executable, file.name])
        elif fence.language == "python":
            printed = execute(fence, page, namespace)
        elif fence.language == "sh":
            for command in commands(fence):
                printed = run(command)
        elif fence.language == "text":
            compare(page, fence, printed)


def execute(fence: Fence, page: Path, namespace: dict[str, object]) -> str:
    """Run a fence in this process, with the line numbers of its page, and return what it prints."""
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile("\n" * fence.line + fence.text, str(page), "exec"), namespace)
    return out.getvalue()


def run(command: list[str]) -> str:
    """Run a command in the present folder and return what it prints."""
    environment = {**ENVIRONMENT, "PYTHONPATH": os.environ["PYTHONPATH"], "COLUMNS": "120"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
