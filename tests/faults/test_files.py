"""Files are replaced completely or not at all, and no other file changes: failing calls, kills, full disks, links."""

import contextlib
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gramian.errors import RunError, WeightsError
from gramian.files import atomic_path, check_folder, check_output, lock_folder, replace_file, sweep_temporaries
from gramian.weights import open_weights, orthogonalize_file
from tests.faults import injection, weights_of
from tests.faults.weights_of import BESIDE, KINDS, contents

over_kinds = pytest.mark.parametrize("kind", KINDS)
TEMPORARY = ".gramian-"
ROOT = Path(__file__).parents[2]


def prepared(folder: Path, kind: str) -> tuple[Path, Path, dict[str, bytes], dict[str, bytes]]:
    """Give source, target, what stands in the folder of the target before, and what shall stand there afterwards."""
    source = weights_of.make(folder / "source", kind)
    good = folder / "good"
    good.mkdir()
    weights_of.run(source, weights_of.target_of(good, kind))
    victims = folder / "victims"
    weights_of.make(victims, kind, seed=1)
    if kind != "sharded":
        (victims / source.name).rename(weights_of.target_of(victims, kind))
    for name, content in BESIDE.items():
        (victims / name).write_bytes(content)
    before = contents(victims)
    return source, weights_of.target_of(victims, kind), before, before | contents(good)


def check(folder: Path, before: dict[str, bytes], after: dict[str, bytes], *, killed: bool) -> bool:
    """Check that under every name stands the old or the new file; say whether they are mixed."""
    now = contents(folder)
    for name, content in before.items():
        assert now[name] in (content, after[name]), name
    extra = set(now) - set(before)
    notices = {name for name in extra if name.endswith(".unfinished")}
    assert all(killed and name.startswith(TEMPORARY) for name in extra - notices), extra
    changed = {name for name in before if before[name] != after[name]}
    new = {name for name in changed if now[name] == after[name]}
    if new and new != changed:
        assert notices
        return True
    return False


@pytest.mark.parametrize(
    "action", [injection.no_space, injection.interrupt, injection.leave], ids=lambda each: each.__name__
)
@over_kinds
def test_after_a_failed_call_the_old_or_the_new_file_is_complete(kind, action, tmp_path) -> None:
    source, target, before, after = prepared(tmp_path, kind)
    folder = tmp_path / "victims"
    inodes = {name: (folder / name).stat().st_ino for name in BESIDE}
    at, mixed = 0, 0
    while True:
        at += 1
        stopped = contextlib.suppress(WeightsError, KeyboardInterrupt, SystemExit)
        with injection.injected(at, action) as fault, stopped:
            weights_of.run(source, target)
        mixed += check(folder, before, after, killed=False)
        if fault.calls < at:
            break
        for name, content in before.items():
            if name not in BESIDE:
                (folder / name).write_bytes(content)
        for path in folder.glob("*.unfinished"):
            path.unlink()
    assert contents(folder) == after
    assert {name: (folder / name).stat().st_ino for name in BESIDE} == inodes
    assert {"os.open", "os.replace", "os.fsync", "os.chmod", "open to write"} <= set(fault.log) | {
        "os.replace" if name == "os.rename" else name for name in fault.log
    }
    assert at > 8
    assert (mixed > 0) == (kind == "sharded")


@over_kinds
def test_a_fault_in_a_new_folder_leaves_whole_files_and_the_index_last(kind, tmp_path) -> None:
    source, *_ = prepared(tmp_path, kind)
    good = contents(tmp_path / "good")
    folder = tmp_path / "new"
    for at in range(1, 400):
        if kind != "sharded":
            folder.mkdir()
        with injection.injected(at, injection.no_space) as fault:
            try:
                weights_of.run(source, weights_of.target_of(folder, kind))
            except WeightsError:
                # Even where it is the flush of the folder that fails, after the renaming.
                left = {name: each for name, each in contents(folder).items() if not name.endswith(".unfinished")}
                assert left.items() <= good.items()
                assert "m.safetensors.index.json" not in left or left == good
        for path in folder.glob("*"):
            path.unlink()
        if folder.exists():
            folder.rmdir()
        if fault.calls < at:
            return
    pytest.fail("it never ended")


KILLER = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from gramian.weights import open_weights
from tests.faults import injection, weights_of
from tests.faults.test_files import check, contents, prepared

root = Path(sys.argv[1])
for kind in weights_of.KINDS:
    (root / kind).mkdir()
    source, target, before, after = prepared(root / kind, kind)
    folder = root / kind / "victims"
    at = mixed = kills = 0
    while True:
        at += int(sys.argv[2])
        child = os.fork()
        if not child:
            with injection.injected(at, injection.kill):
                weights_of.run(source, target)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
        if check(folder, before, after, killed=True):
            mixed += 1
            try:
                open_weights(folder)
            except ValueError as error:
                assert "must be of one set" in str(error)
            else:
                raise AssertionError("mixed without a word")
            weights_of.run(source, target)
            assert contents(folder) == after
        for name, content in before.items():
            (folder / name).write_bytes(content)
        for path in folder.glob("*.unfinished"):
            path.unlink()
    assert contents(folder) == after, sorted(contents(folder))  # the temporaries of the dead are gone too
    assert kills > 8 // int(sys.argv[2]) and (mixed > 0) == (kind == "sharded"), (kind, kills, mixed)
    print(kind, kills, mixed)
"""


@pytest.mark.dist
@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_call_leaves_the_old_or_the_new_file(tmp_path, stride) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), str(stride)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == len(KINDS)


@pytest.fixture
def short_files() -> Iterator[None]:
    """Let no file grow beyond a limit, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@over_kinds
def test_a_full_disk(kind, tmp_path, short_files) -> None:
    source, target, before, _ = prepared(tmp_path, kind)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    longest = max(len(content) for content in contents(tmp_path / "good").values())
    for limit in (0, 1, 100, longest // 2, longest - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(WeightsError, match="could not be written: File too large"):
            weights_of.run(source, target)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert contents(tmp_path / "victims") == before


class TestForce:
    """What the command does not write itself is never moved, replaced or removed."""

    def test_it_writes_into_a_folder_of_other_things(self, tmp_path) -> None:
        source = weights_of.make(tmp_path / "model", "sharded")
        folder = tmp_path / "documents"
        folder.mkdir()
        (folder / "thesis.tex").write_bytes(b"precious")
        (folder / "figures").mkdir()
        there = {path: (path.stat().st_ino, path.stat().st_ctime_ns) for path in folder.iterdir()}
        orthogonalize_file(source, folder, force=True)
        # Not even for an instant: a rename would have changed the time of the inode.
        assert {path: (path.stat().st_ino, path.stat().st_ctime_ns) for path in there} == there
        assert open_weights(folder).kind == "sharded"

    def test_it_replaces_shards_in_their_own_folder(self, tmp_path) -> None:
        source = weights_of.make(tmp_path / "model", "sharded")
        for name, content in BESIDE.items():
            (source.parent / name).write_bytes(content)
        before = contents(source.parent)
        for target in (source.parent, tmp_path / "link"):
            if not target.exists():
                target.symlink_to(source.parent)
            with pytest.raises(WeightsError, match="exists already; try another name, or --force"):
                orthogonalize_file(source, target)
            assert contents(source.parent) == before
        orthogonalize_file(source, tmp_path / "link", force=True, select="b.*")
        after = contents(source.parent)
        assert {name for name in before if before[name] != after[name]} == {"m-1.safetensors"}
        assert set(after) == set(before)

    def test_nothing_is_replaced_without_force(self, tmp_path) -> None:
        source = weights_of.make(tmp_path / "model", "sharded")
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "m-1.safetensors").write_bytes(b"precious")
        with pytest.raises(WeightsError, match=r"m-1\.safetensors exists already"):
            orthogonalize_file(source, folder)
        assert contents(folder) == {"m-1.safetensors": b"precious"}

    def test_an_input_under_another_name_is_not_an_output(self, tmp_path) -> None:
        source = weights_of.make(tmp_path / "model", "sharded")
        before = contents(source.parent)
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "m-1.safetensors").symlink_to(source.parent / "m-0.safetensors")
        with pytest.raises(WeightsError, match="must not be a file that is read"):
            orthogonalize_file(source, folder, force=True)
        for kind in ("safetensors", "npz", "pt"):
            single = weights_of.make(tmp_path / kind, kind)
            link = tmp_path / f"link.{kind}"
            link.symlink_to(single)
            with pytest.raises(WeightsError, match="must not be a file that is read"):
                orthogonalize_file(single, link, force=True)
        assert contents(source.parent) == before

    def test_two_shards_are_not_written_into_one_file(self, tmp_path) -> None:
        source = weights_of.make(tmp_path / "model", "sharded")
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "one").write_bytes(b"")
        for number in (0, 1):
            (folder / f"m-{number}.safetensors").symlink_to("one")
        with pytest.raises(WeightsError, match="must be a separate file"):
            orthogonalize_file(source, folder, force=True)

    @pytest.mark.parametrize(
        ("kind", "name", "message"),
        [
            ("sharded", "out.safetensors", "must be a folder"),
            ("sharded", "m.safetensors.index.json", "must be a folder"),
            ("sharded", "nowhere/out", "the folder of .* must exist"),
            ("npz", "out.safetensors", r"must end in \.npz"),
            ("safetensors", "out.npz", r"must end in \.safetensors"),
            ("pt", "out.npz", r"must end in \.pt or \.pth or \.bin or \.ckpt"),
            ("pt", ".pt", "must end in"),
            ("npz", "folder.npz", "got a folder"),
            ("npz", ".", "got a folder"),
            ("npz", "x" * 252 + ".npz", "File name too long"),
        ],
    )  # fmt: skip
    def test_names(self, kind, name, message, tmp_path) -> None:
        source = weights_of.make(tmp_path / "model", kind)
        (tmp_path / "folder.npz").mkdir()
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(WeightsError, match=message):
            orthogonalize_file(source, tmp_path / name, force=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == before

    def test_one_command_at_a_time_in_a_folder_of_shards(self, tmp_path) -> None:
        source = weights_of.make(tmp_path / "model", "sharded")
        (tmp_path / "out").mkdir()
        with lock_folder(tmp_path / "out"), pytest.raises(WeightsError, match="used by one process at a time"):
            orthogonalize_file(source, tmp_path / "out")
        orthogonalize_file(source, tmp_path / "out")


class TestInPlace:
    """What becomes of permissions, links and odd things under the name of a target."""

    def test_permissions(self, tmp_path) -> None:
        old = os.umask(0o027)
        try:
            replace_file(tmp_path / "new", b"1")
            assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
            for mode in (0o600, 0o644, 0o440, 0o664):
                (tmp_path / "new").chmod(mode)
                replace_file(tmp_path / "new", b"2")
                assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode
        finally:
            os.umask(old)

    def test_a_temporary_file_is_private(self, tmp_path) -> None:
        with atomic_path(tmp_path / "new") as temporary:
            assert stat.S_IMODE(temporary.stat().st_mode) == 0o600

    def test_a_link_stays_and_what_it_points_at_is_replaced(self, tmp_path) -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "file").write_bytes(b"old")
        (tmp_path / "link").symlink_to("there/file")
        (tmp_path / "dangling").symlink_to("there/none")
        for name in ("link", "dangling"):
            replace_file(tmp_path / name, b"new")
            assert (tmp_path / name).is_symlink()
        assert contents(tmp_path / "there") == {"file": b"new", "none": b"new"}

    def test_another_name_of_the_file_keeps_its_content(self, tmp_path) -> None:
        (tmp_path / "one").write_bytes(b"old")
        (tmp_path / "two").hardlink_to(tmp_path / "one")
        replace_file(tmp_path / "one", b"new")
        assert contents(tmp_path) == {"one": b"new", "two": b"old"}

    def test_a_loop_of_links(self, tmp_path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        with pytest.raises(RunError, match="links"):
            check_output(tmp_path / "a", force=True)
        with pytest.raises(RunError, match="links"):
            replace_file(tmp_path / "a", b"")

    def test_devices_pipes_and_folders_are_refused(self, tmp_path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (Path(os.devnull), tmp_path / "pipe", tmp_path):
            with pytest.raises(RunError, match="must be the name of a file"):
                check_output(path, force=True)
            with pytest.raises(RunError, match="must be the name of a file"):
                replace_file(path, b"")
        assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)

    def test_names_of_all_lengths(self, tmp_path) -> None:
        for name in ("x" * 255, "ü" * 127):
            check_output(tmp_path / name, force=False)
            replace_file(tmp_path / name, b"1")
            assert (tmp_path / name).read_bytes() == b"1"
        for name in ("x" * 256, "ü" * 128, "a\0b", "x" * 5000):
            with pytest.raises(RunError, match="must be the name of a file that can be written"):
                check_output(tmp_path / name, force=True)
            with pytest.raises(RunError):
                replace_file(tmp_path / name, b"1")
            with pytest.raises(RunError):
                check_folder(tmp_path / name)

    def test_an_input_is_known_by_every_name(self, tmp_path) -> None:
        (tmp_path / "in").write_bytes(b"1")
        (tmp_path / "link").symlink_to("in")
        (tmp_path / "other").hardlink_to(tmp_path / "in")
        (tmp_path / "folder").symlink_to(tmp_path)
        for name in ("in", "link", "other", "folder/in"):
            with pytest.raises(RunError, match="must not be a file that is read"):
                check_output(tmp_path / name, force=True, inputs=[tmp_path / "in"])
        check_output(tmp_path / "new", force=True, inputs=[tmp_path / "in", tmp_path / "gone"])

    def test_suffixes(self, tmp_path) -> None:
        for name in ("a.html", "A.HTML"):
            check_output(tmp_path / name, force=False, suffixes=(".html",))
        for name in ("a.htm", ".html", "html", "a.html.npz"):
            with pytest.raises(RunError, match=r"must end in \.html"):
                check_output(tmp_path / name, force=True, suffixes=(".html",))

    def test_files_and_folders_without_permission(self, as_nobody) -> None:
        for name in ("read_only", "unsearchable"):
            (as_nobody / name).mkdir()
        (as_nobody / "read_only" / "file").write_bytes(b"1")
        (as_nobody / "unsearchable" / "w.npz").write_bytes(b"1")
        (as_nobody / "unreadable.npz").write_bytes(b"1")
        (as_nobody / "read_only").chmod(0o500)
        (as_nobody / "unsearchable").chmod(0o600)
        (as_nobody / "unreadable.npz").chmod(0)
        for name in ("read_only/new", "read_only/file"):
            with pytest.raises(RunError, match="without write permission"):
                check_output(as_nobody / name, force=True)
            with pytest.raises(RunError, match="could not be written: Permission denied"):
                replace_file(as_nobody / name, b"2")
        with pytest.raises(RunError, match="without write permission"):
            check_folder(as_nobody / "read_only")
        with pytest.raises(RunError, match="Permission denied"):
            check_output(as_nobody / "unsearchable" / "new", force=True)
        for name in ("unreadable.npz", "unsearchable/w.npz", "unsearchable"):
            with pytest.raises(WeightsError, match=r"cannot be read: Permission denied|must hold one index"):
                open_weights(as_nobody / name)
        assert sweep_temporaries(as_nobody / "unsearchable") == []

    def test_kinds_in_a_read_only_folder(self, as_nobody) -> None:
        for kind in KINDS:
            source = weights_of.make(as_nobody / kind, kind)
            closed = as_nobody / f"closed-{kind}"
            closed.mkdir(mode=0o500)
            with pytest.raises(WeightsError, match="ermission"):
                orthogonalize_file(source, weights_of.target_of(closed, kind))
            if kind == "sharded":
                with pytest.raises(WeightsError, match="ermission"):
                    orthogonalize_file(source, closed / "new")


@pytest.fixture
def as_nobody(tmp_path_factory) -> Iterator[Path]:
    """A folder, and a user whom permissions bind: root is nobody meanwhile."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in folder.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)


WRITER = """
import sys, time
from pathlib import Path
from gramian.files import atomic_path, lock_folder
folder = Path(sys.argv[1])
with lock_folder(folder), atomic_path(folder / "file") as temporary:
    temporary.write_bytes(b"half")
    print(temporary.name, flush=True)
    time.sleep(60)
"""


class TestOfTheDead:
    @pytest.mark.dist
    def test_locks_and_temporaries_die_with_their_process(self, tmp_path) -> None:
        (tmp_path / ".gramian-notes.tmp").write_bytes(b"not of a writer")
        (tmp_path / ".gramian-aaaaaaaaaaaa.tmp").symlink_to(".gramian-notes.tmp")
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            name = writer.stdout.readline().strip()
            assert sweep_temporaries(tmp_path) == []
            with pytest.raises(RunError, match="used by one process at a time"), lock_folder(tmp_path):
                pass
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        assert (tmp_path / name).exists()
        with lock_folder(tmp_path):
            assert sweep_temporaries(tmp_path) == [tmp_path / name]
        assert sorted(contents(tmp_path)) == [".gramian-aaaaaaaaaaaa.tmp", ".gramian-notes.tmp"]

    def test_writers_and_sweepers_at_once(self, tmp_path) -> None:
        """Nobody sweeps what is being written, however they meet."""
        failures: list[BaseException] = []
        stop = threading.Event()

        def write(number: int) -> None:
            try:
                for count in range(40):
                    replace_file(tmp_path / f"{number}", bytes([count]) * 100)
            except BaseException as error:
                failures.append(error)

        def sweep() -> None:
            while not stop.is_set():
                sweep_temporaries(tmp_path)

        sweepers = [threading.Thread(target=sweep) for _ in range(2)]
        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for each in (*sweepers, *writers):
            each.start()
        for each in writers:
            each.join()
        stop.set()
        for each in sweepers:
            each.join()
        assert not failures
        assert contents(tmp_path) == {f"{number}": bytes([39]) * 100 for number in range(4)}

    def test_a_folder_is_held_once(self, tmp_path) -> None:
        for _ in range(2):
            with (
                lock_folder(tmp_path),
                pytest.raises(RunError, match="used by one process at a time"),
                lock_folder(tmp_path),
            ):
                pass
        with pytest.raises(RunError, match="must exist"), lock_folder(tmp_path / "none"):
            pass
        assert contents(tmp_path) == {}
