"""Atomic writes of files: check the path before any work, write a temporary file in the same folder, and rename it.

The temporary file is flushed to disk before it is renamed, so after a failure or a kill the target is either the
complete old file or the complete new one. The writer locks the temporary file (`flock`), so a temporary file without a
lock belongs to a process that has died.
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
except ImportError:  # no flock on this system: nothing is locked, and no temporary file is swept
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
"""Short, and without the name of the target, which may already have the longest possible length, 255 bytes."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}
"""Errors of file systems that cannot lock files, or cannot lock folders."""

_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}
"""Errors of file systems that cannot flush a folder, or do not let the user open it."""


def check_output(
    path: Path,
    *,
    force: bool,
    suffixes: Iterable[str] | None = None,
    inputs: Iterable[Path] = (),
    error: type[GramianError] = RunError,
) -> None:
    """Check, before any work, that a file can be written and that no file is lost.

    Args:
        path: Path of the file. For a symbolic link, the checks apply to its target.
        force: Whether an existing file may be replaced.
        suffixes: Allowed endings of the name, such as `.html`; None for any name.
        inputs: Files that are read; the output must not be one of them, under any name, also with `force`.
        error: The kind of error to raise.

    Raises:
        RunError: Or `error`: if the file exists and `force` is False; if the name has none of the suffixes; if the
            folder does not exist or is not writable; if the path is not a regular file; or if it is one of the inputs.

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
        for source in inputs:
            with contextlib.suppress(OSError):
                if os.path.samestat(status, source.stat()):
                    raise error(f"{path} must not be a file that is read; got {source}; try another name")
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path} must be the name of a file; got a device, a pipe or a socket; try another name")
        if not force:
            raise error(f"{path} exists already; try another name, or --force to replace it")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise error(f"the folder of {path} must exist; got none")
    if not _writable(folder):
        raise error(f"the folder of {path} must be writable; got one without write permission; try another")


def check_folder(path: Path, *, error: type[GramianError] = RunError) -> None:
    """Check, before any work, that files can be written into a folder, which need not exist yet.

    Args:
        path: The folder; it or its parent exists.
        error: The kind of error to raise.

    Raises:
        RunError: Or `error`: if the path is not a folder, or the folder can be neither written nor created.

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
        raise error(f"{folder} must be a writable folder; got one without write permission; try another")


@contextlib.contextmanager
def atomic_path(target: Path, *, error: type[GramianError] = RunError) -> Generator[Path]:
    """Yield a temporary path in the folder of `target`, and rename it to `target` if the block ends without an error.

    The file is flushed to disk before it is renamed, and the folder afterwards. A new file gets the permissions of the
    user's umask; a file that replaces another keeps the permissions. The target of a symbolic link is replaced, not the
    link. If the block or the renaming raises, also KeyboardInterrupt, the temporary file is removed and `target` is
    unchanged.

    Args:
        target: Path of the file; an existing file is replaced.
        error: The kind of error to raise.

    Yields:
        The path of an empty file to open and write.

    Raises:
        RunError: Or `error`: if the file cannot be written (no such folder, no permission, a full disk), also for an
            OSError in the block.

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
        place = Path(os.path.realpath(target))  # the target of a link is replaced, not the link
        with contextlib.ExitStack() as stack:
            temporary, descriptor = _new_temporary(place.parent)
            stack.callback(os.close, descriptor)  # closing releases the lock
            # The kernel has applied the umask; until the file is complete, only its writer may read it.
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
    """Write a file atomically, by `atomic_path`.

    Args:
        path: Path of the file; an existing file is replaced.
        content: Its content.

    Raises:
        RunError: If it cannot be written (no such folder, no permission, a full disk); an existing file is unchanged.

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
    """Lock a folder for this process until the block ends or the process dies.

    The lock is advisory (`flock` on the folder, so no lock file remains) and also excludes other threads of the
    process. On file systems without locks nothing is locked. Processes that are forked in the block share the lock.

    Args:
        folder: An existing folder.
        error: The kind of error to raise.

    Yields:
        Nothing.

    Raises:
        RunError: Or `error`: if the folder is locked already, or does not exist.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with lock_folder(folder), lock_folder(folder):
        ...     pass
        Traceback (most recent call last):
        gramian.errors.RunError: ... must be used by one process at a time; got one that uses it now; ...
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
                f"{folder} must be used by one process at a time; got one that uses it now; try again when it has ended"
            )
        yield
    finally:
        os.close(descriptor)


def sweep_temporaries(folder: Path) -> list[Path]:
    """Remove the temporary files that `atomic_path` left in a folder when its process died.

    Temporary files of running processes, files that cannot be opened or removed, and all other files are kept.

    Args:
        folder: The folder; its subfolders are not searched.

    Returns:
        The removed files.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> abandoned = folder / ".gramian-0123456789ab.tmp"
        >>> abandoned.touch()
        >>> with atomic_path(folder / "new.txt") as temporary:
        ...     sweep_temporaries(folder) == [abandoned], temporary.exists()
        (True, True)
    """
    removed: list[Path] = []
    if fcntl is None:
        return removed
    try:
        candidates = sorted(path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name))
    except OSError:
        return removed
    for path in candidates:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            # Do not follow links, and do not block on a pipe.
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            stack.callback(os.close, descriptor)
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and _locked(descriptor, unknown=False):
                path.unlink()
                removed.append(path)
    return removed


def _status(path: Path, error: type[GramianError]) -> os.stat_result | None:
    """Return the status of a path, None if it does not exist."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    # Such as a name that is too long, a loop of links, a folder without permission, or a zero byte in the name.
    except (OSError, ValueError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else failure
        raise error(f"{str(path)!r} must be the name of a file that can be written: {reason}; try another") from failure


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _ends_in(path: Path, suffix: str) -> bool:
    return path.name.lower().endswith(suffix) and len(path.name) > len(suffix)


def _new_temporary(folder: Path) -> tuple[Path, int]:
    """Create and lock a temporary file; return its path and the descriptor that holds the lock."""
    while True:
        path = folder / f".gramian-{secrets.token_hex(6)}.tmp"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _locked(descriptor, wait=True)
        # Another process may have removed it between the two lines above.
        if fcntl is None or os.fstat(descriptor).st_nlink > 0:
            return path, descriptor
        os.close(descriptor)


def _locked(descriptor: int, *, wait: bool = False, unknown: bool = True) -> bool:
    """Lock an open file or folder; return whether it is locked, or `unknown` if the system has no locks."""
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
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
