"""The examples of the page on extending: their classes pass the laws, by the file of cases that the page prints."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation.conftest import DOCS

PAGE = (DOCS / "extending.md").read_text(encoding="utf-8")
(CASES,) = [text for text in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if ">>>" not in text]


def laws(folder: Path, *options: str) -> str:
    """Run the laws with the cases of the page."""
    examples = doctest.DocTestParser().get_examples(PAGE)
    (folder / "my_package.py").write_text("".join(each.source for each in examples), encoding="utf-8")
    (folder / "my_cases.py").write_text(CASES, encoding="utf-8")
    root = DOCS.parent
    paths = os.pathsep.join([str(folder), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *options],
        capture_output=True, text=True, check=False, cwd=root,
        env=os.environ | {"GRAMIAN_CASES": str(folder / "my_cases.py"), "PYTHONPATH": paths},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    return run.stdout


@pytest.mark.slow
def test_the_examples_pass_the_laws(tmp_path) -> None:
    text = laws(tmp_path, "tests/laws", "-k", "pseudo_huber or capped or sized")
    assert int(re.search(r"(\d+) passed", text)[1]) > 100
    assert "passed" in laws(tmp_path, "tests/test_layout.py", "-k", "pairs")
