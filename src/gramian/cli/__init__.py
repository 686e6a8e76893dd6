"""The command line."""

import sys

from gramian.errors import GramianError

__all__ = ["main"]


def main() -> None:
    """Run the `gramian` command: one clear line and exit status 2 for bad input."""
    try:
        from gramian.cli.application import application
    except ModuleNotFoundError as error:
        sys.exit(f"gramian: the command line needs {error.name}; try pip install 'gramian[cli]'")
    try:
        application()
    except GramianError as error:
        print(f"gramian: {error}", file=sys.stderr)
        sys.exit(2)
