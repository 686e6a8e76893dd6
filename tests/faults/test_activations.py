"""Captures that are killed, out of disk, or in folders that are closed: whole shards stay, and nothing else changes."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from gramian.activations import Manifest, capture, open_activations
from gramian.activations.store.manifest import MANIFEST
from gramian.errors import DataError, RunError
from gramian.files import lock_folder
from tests.faults import injection

ROOT = Path(__file__).parents[2]
LENGTH = 4


def run(store: Path, *, batches: int = 5, **options) -> Manifest:
    """Capture five batches in three shards."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, 3, LENGTH, generator=generator)[:batches]
    return capture(
        nn.Sequential(nn.Tanh()), inputs, layer="0", store=store, shard_bytes=2 * 3 * LENGTH * 4, **options
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def kept(folder: Path, whole: dict[str, bytes]) -> int:
    """Check what an interrupted capture has left, and return its number of shards."""
    left = {name: content for name, content in contents(folder).items() if not name.startswith(".gramian-")}
    shards = {name for name in left if name != MANIFEST}
    assert all(left[name] == whole[name] for name in shards)
    if MANIFEST not in left:
        assert len(shards) <= 1
        return 0
    activations = open_activations(folder)
    activations.verify()
    manifest = activations.manifest
    assert manifest is not None
    assert len(shards) - len(manifest.shards) in (0, 1)  # a shard may have no manifest yet
    return len(manifest.shards)


@pytest.mark.parametrize(
    "action",
    [
        injection.no_space,
        pytest.param(injection.interrupt, marks=pytest.mark.slow),
        pytest.param(injection.leave, marks=pytest.mark.slow),
    ],
    ids=lambda action: action.__name__,
)
def test_after_a_failed_call_whole_shards_are_left(action, tmp_path) -> None:
    run(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    counts = set()
    for at in range(1, 1000):
        folder = tmp_path / str(at)
        with injection.injected(at, action) as fault:
            try:
                run(folder)
            except (RunError, KeyboardInterrupt, SystemExit):
                shards = kept(folder, whole)
                counts.add(shards)
                assert not any(name.startswith(".gramian-") for name in contents(folder))
        if fault.calls < at:
            break
        run(folder, resume=bool(shards))
        assert contents(folder) == whole
    assert at > 30
    assert counts == {0, 1, 2, 3}


KILLER = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.faults import injection
from tests.faults.test_activations import contents, kept, run

root = Path(sys.argv[1])
run(root / "whole")
whole = contents(root / "whole")
counts, kills = set(), 0
for at in range(1, 1000):
    folder = root / str(at)
    child = os.fork()
    if not child:
        with injection.injected(at, injection.kill):
            run(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        break
    kills += 1
    shards = kept(folder, whole)
    counts.add(shards)
    run(folder, resume=shards > 0)
    assert contents(folder) == whole, (at, sorted(contents(folder)))
assert contents(folder) == whole
print(kills, sorted(counts))
"""


@pytest.mark.dist
@pytest.mark.slow
def test_a_killed_capture_continues_to_the_same_bytes(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kills, counts = done.stdout.split(maxsplit=1)
    assert int(kills) > 30
    assert counts.strip() == "[0, 1, 2, 3]"


@pytest.fixture
def short_files() -> Iterator[None]:
    """Let no file grow beyond a limit, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(tmp_path, short_files) -> None:
    run(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100, len(whole["activations-00000.safetensors"]) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(RunError, match=r"00000\.safetensors could not be written: File too large"):
            run(tmp_path / "store")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert not (tmp_path / "store").exists()
    run(tmp_path / "store", batches=2)
    before = contents(tmp_path / "store")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    with pytest.raises(RunError, match="could not be written: File too large"):
        run(tmp_path / "store", force=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert before
    run(tmp_path / "store")
    assert contents(tmp_path / "store") == whole


def test_one_capture_at_a_time(tmp_path) -> None:
    (tmp_path / "store").mkdir()
    with lock_folder(tmp_path / "store"), pytest.raises(RunError, match="must be used by one process at a time"):
        run(tmp_path / "store")
    assert run(tmp_path / "store").complete


@pytest.mark.parametrize("name", ["file", "no/folder", "x" * 300])
def test_names_that_are_no_folder(tmp_path, name) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(RunError, match=r"must be the name of a folder|must exist; got none|must be the name of a file"):
        run(tmp_path / name)
    assert contents(tmp_path) == {"file": b"precious"}


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, whom a read-only folder stops")
def test_a_read_only_folder(tmp_path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if not path.name.startswith(("test_", "popen-", "pytest-")):
            break
        path.chmod(0o755)  # folders of pytest, which are closed to others
    (tmp_path / "closed").mkdir(mode=0o555)
    os.seteuid(65534)
    try:
        for name in ("closed", "closed/store", "new"):
            with pytest.raises(RunError, match="must be a writable folder; got one without write permission"):
                run(tmp_path / name)
    finally:
        os.seteuid(0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["closed"]


def read_all(store: Path) -> torch.Tensor | None:
    """Read the samples of a store; None if it is refused."""
    try:
        activations = open_activations(store)
        activations.places(slice(None))
        activations.verify()
    except (DataError, RunError):
        return None
    return activations[:]


def test_mutated_stores_never_give_wrong_samples(tmp_path) -> None:
    """Change a byte anywhere: the store is refused, or its samples are as before, or `verify` refuses it."""
    run(tmp_path / "store")
    expected = open_activations(tmp_path / "store")[:]
    for name, content in contents(tmp_path / "store").items():
        path = tmp_path / "store" / name
        for place in torch.randint(len(content), (60,)).tolist():
            for mutated in (content[:place], content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]):
                path.write_bytes(mutated)
                samples = read_all(path.parent)
                assert samples is None or torch.equal(samples, expected)
        path.write_bytes(content)
