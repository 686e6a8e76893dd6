"""The command line."""

import sys

from gramian.cli.ending import end
from gramian.errors import needs_extra

__all__ = ["main"]


def main() -> None:
    """Run the `gramian` command; whatever ends it is told in one line, and by the exit status.

    0: done; 1: done, but not all that was asked for; 2: bad input, or the system refuses a file; 70: an error that
    nobody foresaw, whose traceback is in a file; 130: Ctrl-C; 141: nobody reads the output any longer; 143: told to
    stop.
    """
    sys.exit(end(_command))


def _command() -> None:
    with needs_extra("the command line", "cli"):
        from gramian.cli.application import application

        application()
