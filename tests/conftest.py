"""What all tests share: a seed for each test, examples that repeat, and on request shapes checked at run time.

With the environment variable CHECK_SHAPES=1 every function of the package is wrapped, on import, to check its shape
annotations with beartype. `make test` runs the examples of all docstrings and the tests of some folders so. The others
run on the package as users import it: the wrappers double the time of many tests, even where they are switched off, and
torch.compile cannot trace through them. The fixture `unchecked` switches the check off for one test, for the package's
own errors about a wrong type.
"""

import os
import sys
import zlib
from collections.abc import Iterator

# One thread, here and in processes that tests start: matrices are small, and a second one mostly waits for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jaxtyping
import pytest
import torch

from tests import shapes

if shapes.CHECKED:
    jaxtyping.install_import_hook("gramian", f"{shapes.__name__}.checked")
    sys.meta_path.insert(0, shapes.AsItIs())

# Device code runs on the CPU, one program after the other, also where there is a GPU; `make gpu` sets 0.
os.environ.setdefault("TRITON_INTERPRET", "1")

import gramian
from gramian import layout

torch.set_num_threads(1)

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    torch.manual_seed(zlib.crc32(item.nodeid.encode()))
    layout._warn_overcomplete.cache_clear()  # a warning that is given once in a process


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the run-time shape check off."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def reference_kernel() -> Iterator[None]:
    """Use the reference kernel, whose flops torch counts and whose tensors torch sees."""
    with gramian.kernels.use("reference"):
        yield
