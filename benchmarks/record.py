"""Write measurements as Markdown tables, with a description of the machine."""

import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from gramian import __version__
from gramian.files import replace_file

__all__ = ["RESULTS", "commit", "machine", "table", "write"]

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Return the processor, the number of threads and the versions of Python, torch and gramian."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return (
        f"{processor}, {torch.get_num_threads()} threads; Python {platform.python_version()}, torch "
        f"{torch.__version__}, gramian {__version__}"
    )


def commit() -> str:
    """Return the current commit, with a + if files differ from it."""
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def write(name: str, text: str, folder: Path = RESULTS) -> None:
    """Print a result, and write it into the folder of results."""
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / name, text.encode())
    print(f"written to {folder / name}")
