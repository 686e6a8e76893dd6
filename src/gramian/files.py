"""Files are written beside and renamed: a reader never sees half of one, and a failure loses nothing."""

import contextlib
import os
import tempfile
from pathlib import Path

from gramian.errors import RunError

__all__ = ["must_be_new", "replace_file"]


def must_be_new(path: Path, *, force: bool) -> None:
    """Check, before any work is done for it, that a file can be written without the loss of another.

    Args:
        path: Where the file is to stand.
        force: Whether it may replace what stands there.

    Raises:
        RunError: If something stands there already, or there is no such folder.
    """
    if path.exists() and not force:
        raise RunError(f"{path} exists already; try another -o, or --force to replace it")
    if not path.parent.is_dir():
        raise RunError(f"the folder of {path} must exist; got none")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one stroke: whole and flushed to disk under a temporary name beside it, then renamed.

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
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a result is as readable as the user's other files.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
        raise RunError(f"{path} could not be written: {error.strerror or error}") from error
