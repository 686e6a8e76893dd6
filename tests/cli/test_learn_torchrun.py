"""`torchrun gramian learn`: one run of several processes, which survives one that is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import distributed

from gramian.images import load_dictionary
from tests.torchrun import ENVIRONMENT, TORCHRUN

pytestmark = [
    pytest.mark.dist,
    pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed"),
]

slow = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from gramian.cli import main; main()", "learn"]
TINY = ["--groups", "8x2", "--patch", "8", "--batch", "16", "--out", "run"]
FILES = {"dictionary.safetensors", "metrics.jsonl", "report.html", "settings.json"}


def command(processes: int, *options: str, restarts: int = 0) -> list[str]:
    arguments = [f"--nproc-per-node={processes}", f"--max-restarts={restarts}", "--no-python"]
    return [*TORCHRUN, *arguments, *COMMAND, *TINY, *options]


def run(folder: Path, processes: int, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(processes, *options), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False,
        timeout=200,
    )  # fmt: skip


def started(folder: Path, *options: str, restarts: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(2, *options, restarts=restarts), cwd=folder, env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def dictionary(folder: Path):
    return load_dictionary(folder / "run" / "dictionary.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    done = subprocess.run([*COMMAND, *TINY, "--steps", "60"], cwd=folder, env=ENVIRONMENT, check=False)
    assert done.returncode == 0
    return folder


@slow
@pytest.mark.parametrize(("processes", "spread"), [(2, 1), (2, 2), (4, 2)])
def test_it_is_the_run_of_one_process(alone, tmp_path, processes, spread) -> None:
    done = run(tmp_path, processes, "--steps", "60", "--spread", str(spread))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("learned; writing the report") == 1
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == FILES
    learned, expected = dictionary(tmp_path), dictionary(alone)
    assert learned.step == expected.step == 60
    torch.testing.assert_close(learned.phi, expected.phi, rtol=0, atol=2e-4)
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [0, 60]


def children(process: int) -> list[int]:
    identifiers = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == process:
                identifiers.append(int(entry.name))
    return identifiers


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")
def test_a_worker_that_is_lost_costs_the_steps_since_the_last_checkpoint(tmp_path) -> None:
    output, killed = "", False
    with started(tmp_path, "--steps", "1500", restarts=1) as process:
        for line in process.stdout:
            output += line
            if line.startswith("step    200") and not killed:
                killed = True
                os.kill(max(children(process.pid)), signal.SIGKILL)
    assert killed, output[-3000:]
    assert process.returncode == 0, output[-3000:]
    printed = [int(step) for step in re.findall(r"^step +(\d+)", output, re.MULTILINE)]
    assert printed == list(range(100, 1501, 100))  # none twice: it went on from the checkpoint at step 200
    assert dictionary(tmp_path).step == 1500
    steps = [json.loads(row)["step"] for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(0, 1501, 100))


@slow
def test_told_to_stop_all_stop_at_the_same_step_and_one_process_goes_on(tmp_path) -> None:
    output = ""
    with started(tmp_path, "--steps", "3000") as process:
        for line in process.stdout:
            output += line
            if line.startswith("step    100"):
                process.send_signal(signal.SIGTERM)
                time.sleep(0.1)
    stopped = re.search(r"stopped at step (\d+) of 3000", output)
    assert stopped, output[-3000:]
    assert dictionary(tmp_path).step == int(stopped[1])
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == FILES
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    (tmp_path / "run" / "settings.json").write_text(json.dumps(settings | {"steps": int(stopped[1]) + 20}))
    done = subprocess.run(
        [*COMMAND, "--resume", "--out", "run"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert dictionary(tmp_path).step == int(stopped[1]) + 20


@pytest.mark.slow
def test_errors_are_printed_once_and_no_files_remain(tmp_path) -> None:
    done = run(tmp_path, 2, "--batch", "15")
    assert done.returncode != 0
    assert "the batch size must be a multiple of the 2 processes that divide it; got 15" in done.stderr
    assert not (tmp_path / "run").exists()
