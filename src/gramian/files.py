"""The one place that puts a file in place: checked before any work, written beside, and renamed in one stroke.

Under every name stands the old file or the new one, whole, whatever fails or is killed in between: a temporary file
beside the target is written, flushed to disk and renamed. Its writer holds it locked (`flock`), so that a temporary
without a lock is known to be left by a process that has died.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Generator, Iterable
from pathlib import Path

from gramian.errors import GramianError, RunError

try:
    import fcntl
except ImportError:  # no flock on this system: nothing is locked, and nothing is swept
    fcntl = None

__all__ = [
    "atomic_path",
    "check_folder",
    "check_output",
    "lock_folder",
    "replace_file",
    "sweep_temporaries",
]

_TEMPORARY = re.compile(r"\.gramian-[0-9a-f]{12}\.tmp")
"""Short, and without the name of the target, which may have all of the 255 bytes that a name may have."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}
"""What a file system says that cannot lock, or cannot lock a folder."""

_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}
"""What a file system says that cannot flush a folder, or does not let its user open it."""


def check_output(
    path: Path,
    *,
    force: bool,
    suffixes: Iterable[str] | None = None,
    inputs: Iterable[Path] = (),
    error: type[GramianError] = RunError,
) -> None:
    """Check, before any work is done for it, that a file may be written and that nothing is lost by it.

    Args:
        path: Where the file is to stand. Of a symbolic link, what it points at counts.
        force: Whether it may replace the file that stands there.
        suffixes: How its name may end, as in `.html`; None for any name.
        inputs: Files that are read; the output may be none of them, under no name, `force` or not.
        error: The kind of error to raise.

    Raises:
        RunError: Or `error`: if a file stands there and `force` is False; if the name has none of the suffixes; if
            there is no such folder, or nothing may be written in it; if something stands there that is no file; or if
            it is one of the inputs.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> check_output(folder / "page.html", force=False, suffixes=[".html"])
        >>> check_output(folder / "weights.npz", force=True, suffixes=[".html"])
        Traceback (most recent call last):
        gramian.errors.RunError: the name of an output must end in .html here; got weights.npz; try weights.html
    """
    status = _status(path, error)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise error(f"{path} must be the name of a file; got a folder; try a name in it")
    allowed = None if suffixes is None else tuple(suffixes)
    if allowed is not None and not any(_ends_in(path, suffix) for suffix in allowed):
        raise error(
            f"the name of an output must end in {' or '.join(allowed)} here; got {path.name}; try "
            f"{path.stem or 'name'}{allowed[0]}"
        )
    if status is not None:
        for each in inputs:
            with contextlib.suppress(OSError):
                if os.path.samestat(status, each.stat()):
                    raise error(f"{path} must not be a file that is read; got {each}; try another name")
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path} must be the name of a file; got a device, a pipe or a socket; try another name")
        if not force:
            raise error(f"{path} exists already; try another name, or --force to replace it")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise error(f"the folder of {path} must exist; got none")
    if not _writable(folder):
        raise error(f"the folder of {path} must be one to write in; got one without the permission; try another")


def check_folder(path: Path, *, error: type[GramianError] = RunError) -> None:
    """Check, before any work is done for it, that files may be written into a folder, which need not exist yet.

    Args:
        path: The folder; it or the folder around it exists.
        error: The kind of error to raise.

    Raises:
        RunError: Or `error`: if something stands there that is no folder, or it can neither be written in nor made.

    Examples:
        >>> import tempfile
        >>> check_folder(Path(tempfile.mkdtemp()) / "new")
    """
    status = _status(path, error)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise error(f"{path} must be the name of a folder; got a file")
    folder = path if status is not None else Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise error(f"the folder of {path} must exist; got none")
    if not _writable(folder):
        raise error(f"{folder} must be a folder to write in; got one without the permission; try another")


@contextlib.contextmanager
def atomic_path(target: Path, *, error: type[GramianError] = RunError) -> Generator[Path]:
    """Give a temporary path beside `target`, which takes its place in one stroke when the block has ended well.

    The file is flushed to disk before it is renamed, and the folder afterwards. A new file gets the permissions that
    the user's umask leaves, another keeps those of the file that it replaces. A symbolic link stays, and what it points
    at is replaced. When the block, or the renaming, raises, be it KeyboardInterrupt, the temporary is removed and
    `target` is what it was.

    Args:
        target: Where the file is to stand; what stands there is replaced.
        error: The kind of error to raise.

    Yields:
        The path of an empty file, to be opened and written.

    Raises:
        RunError: Or `error`: if the file cannot be written (no such folder, no permission, a full disk); an OSError in
            the block is told so too.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "settings.json"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("{}")
        ...     target.exists()
        False
        >>> [entry.name for entry in target.parent.iterdir()]
        ['settings.json']
    """
    temporary: Path | None = None
    try:
        old = _status(target, error)
        if old is not None and not stat.S_ISREG(old.st_mode):
            raise error(f"{target} must be the name of a file; got a folder, a device, a pipe or a socket")
        place = Path(os.path.realpath(target))  # what a link points at is replaced, not the link
        with contextlib.ExitStack() as held:
            temporary, descriptor = _new_temporary(place.parent)
            held.callback(os.close, descriptor)  # the lock ends with it
            # The kernel has applied the umask; until the file is whole, it is its writer's alone.
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode if old is None else old.st_mode)
            temporary.chmod(0o600)
            yield temporary
            _flush(temporary, os.O_RDWR)
            temporary.chmod(mode)
            temporary.replace(place)
            temporary = None
            try:
                _flush(place.parent, os.O_RDONLY)
            except OSError as failure:
                if failure.errno not in _NO_FOLDER_SYNC:
                    raise
    except OSError as failure:
        raise error(f"{target} could not be written: {failure.strerror or failure}") from failure
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one stroke, by `atomic_path`.

    Args:
        path: Where the file is to stand; what stands there is replaced.
        content: What is to stand in it.

    Raises:
        RunError: If it cannot be written (no such folder, no permission, a full disk); what stood at `path` still does.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "settings.json"
        >>> replace_file(path, b"{}")
        >>> path.read_bytes(), [entry.name for entry in path.parent.iterdir()]
        (b'{}', ['settings.json'])
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def lock_folder(folder: Path, *, error: type[GramianError] = RunError) -> Generator[None]:
    """Hold a folder for this process alone, until the block ends or the process dies, however it dies.

    It is a lock among processes that ask for it (`flock` on the folder itself, so no file is left behind), and one of a
    process among its threads too. Where a file system has no such locks, nothing is held. Processes that were forked
    meanwhile share it.

    Args:
        folder: An existing folder.
        error: The kind of error to raise.

    Yields:
        Nothing.

    Raises:
        RunError: Or `error`: if another holds it, or there is no such folder.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with lock_folder(folder), lock_folder(folder):
        ...     pass
        Traceback (most recent call last):
        gramian.errors.RunError: ... must be in use by one process alone; got one that uses it now; ...
    """
    if not folder.is_dir():
        raise error(f"the folder {folder} must exist; got none")
    if fcntl is None:
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as failure:
        raise error(f"the folder {folder} could not be opened: {failure.strerror or failure}") from failure
    try:
        if not _locked(descriptor):
            raise error(
                f"{folder} must be in use by one process alone; got one that uses it now; try again when it has ended"
            )
        yield
    finally:
        os.close(descriptor)


def sweep_temporaries(folder: Path) -> list[Path]:
    """Remove the temporaries that `atomic_path` made in a folder and whose process has died.

    Those that a living process holds stay, and so does everything else. What cannot be opened or removed stays too.

    Args:
        folder: Where to look; not in the folders within.

    Returns:
        What was removed.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> left_by_a_dead_process = folder / ".gramian-0123456789ab.tmp"
        >>> left_by_a_dead_process.touch()
        >>> with atomic_path(folder / "new.txt") as temporary:
        ...     sweep_temporaries(folder) == [left_by_a_dead_process], temporary.exists()
        (True, True)
    """
    removed: list[Path] = []
    if fcntl is None:
        return removed
    try:
        left = sorted(path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name))
    except OSError:
        return removed
    for path in left:
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            # Not through links, and not waiting for the other end of a pipe.
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            held.callback(os.close, descriptor)
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and _locked(descriptor, unknown=False):
                path.unlink()
                removed.append(path)
    return removed


def _status(path: Path, error: type[GramianError]) -> os.stat_result | None:
    """Give what stands at a path, None if nothing does."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (
        OSError,
        ValueError,
    ) as failure:  # too long a name, a loop of links, a folder closed to the user, a zero byte
        reason = failure.strerror if isinstance(failure, OSError) else failure
        raise error(f"{str(path)!r} must be the name of a file that can be written: {reason}; try another") from failure


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _ends_in(path: Path, suffix: str) -> bool:
    return path.name.lower().endswith(suffix) and len(path.name) > len(suffix)


def _new_temporary(folder: Path) -> tuple[Path, int]:
    """Make a temporary and lock it; give it and the descriptor that holds the lock."""
    while True:
        path = folder / f".gramian-{secrets.token_hex(6)}.tmp"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _locked(descriptor, wait=True)
        # Another process may have swept it between the two lines above: then it has no name any more.
        if fcntl is None or os.fstat(descriptor).st_nlink > 0:
            return path, descriptor
        os.close(descriptor)


def _locked(descriptor: int, *, wait: bool = False, unknown: bool = True) -> bool:
    """Lock an open file or folder, and say whether it is; `unknown` where there are no locks."""
    if fcntl is None:
        return unknown
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as failure:
        if failure.errno not in _NO_LOCKS:
            raise
        return unknown
    return True


def _flush(path: Path, flags: int) -> None:
    """Wait until what was written is on the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
