"""What all tests share: shapes checked at run time, a seed for each test, and examples that repeat.

Every function of the package is wrapped, on import, to check its shape annotations with beartype. Two ways around it:

* the fixture `unchecked` switches the check off for one test, for the package's own errors about a wrong type;
* the environment variable JAXTYPING_DISABLE=1 leaves the package as a user imports it; `tests/bare` runs so, in a
  process of its own, because torch.compile cannot trace through the wrapper.
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

if not jaxtyping.config.jaxtyping_disable:
    jaxtyping.install_import_hook("gramian", f"{shapes.__name__}.checked")
    sys.meta_path.insert(0, shapes.AsItIs())

# Device code runs on the CPU, one program after the other, also where there is a GPU; `make gpu` sets 0.
os.environ.setdefault("TRITON_INTERPRET", "1")

import gramian

torch.set_num_threads(1)

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    torch.manual_seed(zlib.crc32(item.nodeid.encode()))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the run-time shape check off."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def reference_kernel() -> Iterator[None]:
    """Use the reference kernel, whose flops torch counts and whose tensors torch sees."""
    with gramian.kernels.use("reference"):
        yield
