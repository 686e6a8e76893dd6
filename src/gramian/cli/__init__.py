"""The command line: the entry point of `gramian`."""

import sys

from gramian.cli.exit_status import end
from gramian.errors import needs_extra

__all__ = ["main"]


def main() -> None:
    """Run the `gramian` command; print one line for an error, and exit with a status.

    The statuses are 0: success; 1: partial success; 2: invalid input, or a file that the system refuses to read or
    write; 70: an unexpected error, whose traceback is in a file; 130: Ctrl-C; 141: the reader of the output has closed
    it; 143: SIGTERM.
    """
    sys.exit(end(_command))


def _command() -> None:
    with needs_extra("the command line", "cli"):
        from gramian.cli.application import application

        application()
