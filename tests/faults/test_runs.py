"""Runs that are killed, started twice at once, out of disk, or damaged: nothing is lost, and nothing is silent."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gramian.errors import GramianError, RunError
from gramian.files import lock_folder
from gramian.images import load_codes, load_dictionary
from gramian.images.run import LearningRun, RunSettings
from tests.crops import save_crops
from tests.faults import fuzz_runs

slow = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from gramian.cli import main; main()"]
STEPS = 100
FILES = {"dictionary.safetensors", "metrics.jsonl", "report.html", "settings.json"}

IN_ONE_PROCESS = """
import os, signal, sys, time
from pathlib import Path
import gramian.files
from gramian.cli.runs import images, loop
from gramian.images.run import RunSettings
images.learning_record = lambda run, **_: None  # what is drawn is not asked for here
images.render_report = lambda record, **_: "<!doctype html>"
"""
"""A program that learns as the command does, without the seconds that a report takes."""


def settings(pictures: Path, steps: int = STEPS) -> RunSettings:
    return RunSettings(
        groups=4, size=2, patch=4, batch=4, iterations=2, steps=steps, report_every=10, images=str(pictures)
    )


def program(text: str, *arguments: object, folder: Path, **more) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", IN_ONE_PROCESS + text, *map(str, arguments)], cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return save_crops(tmp_path_factory.mktemp("faults") / "pictures", count=3, side=32)


@pytest.fixture(scope="module")
def whole(pictures) -> LearningRun:
    """The run that nobody disturbs."""
    run = LearningRun(settings(pictures))
    run.log_metrics(seconds=0.0)
    while not run.finished:
        run.advance()
        if run.should_report:
            run.log_metrics(seconds=0.0)
    return run


def is_the_same(folder: Path, whole: LearningRun) -> None:
    learned = load_dictionary(folder / "dictionary.safetensors")
    assert learned.step == whole.step
    assert torch.equal(learned.phi, whole.phi)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row | {"seconds": 0} for row in rows] == [row | {"seconds": 0} for row in whole.metrics]
    assert {path.name for path in folder.iterdir()} == FILES


KILLED = """
settings = RunSettings(**eval(sys.argv[1]))
moment, child, calls = int(sys.argv[2]), os.fork(), 0
if child == 0:
    # The moments are before and after each system call that replaces a file.
    def counted(function):
        def call(*given, **more):
            global calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **more)
        return call
    os.fsync = counted(os.fsync)
    Path.replace = counted(Path.replace)
    Path.write_bytes = counted(Path.write_bytes)
    Path.mkdir = counted(Path.mkdir)
    loop.start_run(images.IMAGES, settings, Path(sys.argv[3]))
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.WIFSIGNALED(status), (moment, status)
try:
    loop.continue_run(images.IMAGES, Path(sys.argv[3]))
except Exception as error:
    print(type(error).__name__, error)
    loop.start_run(images.IMAGES, settings, Path(sys.argv[3]))
"""


def killed_at(moment: int, pictures: Path, folder: Path) -> str:
    chosen = {key: value for key, value in vars(settings(pictures)).items() if key != "device"}
    code, out, err = ended(program(KILLED, chosen, moment, "run", folder=folder))
    assert (code, err) == (0, ""), (moment, err)
    return out


@pytest.mark.dist
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(1, marks=slow),
        pytest.param(3, marks=slow),
        8,
        pytest.param(12, marks=slow),
        pytest.param(25, marks=slow),
    ],
)
def test_killed_and_resumed_a_run_has_the_same_bits(whole, pictures, tmp_path, moment) -> None:
    shown = killed_at(moment, pictures, tmp_path)
    # Moments 1 to 12 lie before the first checkpoint; up to 3 not even the settings stand there.
    assert ("RunError run must hold a run, to be resumed" in shown) == (moment <= 3)
    assert ("it starts again" in shown) == (moment in (8, 12))
    is_the_same(tmp_path / "run", whole)


@slow
@pytest.mark.dist
def test_killed_at_any_moment(whole, pictures, tmp_path) -> None:
    for moment in [*range(1, 30), *random.Random(0).sample(range(30, 130), 15)]:
        folder = tmp_path / str(moment)
        folder.mkdir()
        killed_at(moment, pictures, folder)
        is_the_same(folder / "run", whole)


@slow
@pytest.mark.dist
def test_killed_by_the_clock(whole, pictures, tmp_path) -> None:
    start = "loop.start_run(images.IMAGES, RunSettings(**eval(sys.argv[1])), Path('run'))"
    draw = random.Random(1)
    for number in range(8):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = program(start, vars(settings(pictures)), folder=folder)
        time.sleep(draw.uniform(1.5, 4.0))
        process.kill()
        ended(process)
        again = (
            "loop.continue_run(images.IMAGES, Path('run'))" if (folder / "run" / "settings.json").exists() else start
        )
        code, _, err = ended(program(again, vars(settings(pictures)), folder=folder))
        assert (code, err) == (0, "")
        is_the_same(folder / "run", whole)


@pytest.mark.dist
class TestTwoAtOnce:
    @slow
    def test_two_new_runs_have_a_folder_each(self, pictures, tmp_path) -> None:
        # Both wait for each other where they would choose a number.
        text = """
real = loop.new_run
def together(*given, **more):
    (Path("ready" + sys.argv[2])).touch()
    while len(list(Path().glob("ready*"))) < 2:
        time.sleep(0.01)
    return real(*given, **more)
loop.new_run = together
loop.start_run(images.IMAGES, RunSettings(**eval(sys.argv[1])), None)
"""
        processes = [program(text, vars(settings(pictures, 10)), name, folder=tmp_path) for name in "ab"]
        for process in processes:
            code, out, err = ended(process)
            assert (code, err) == (0, ""), err
            assert re.search(r"the report are in runs/00[12]: open", out)
        assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["001", "002"]
        for name in ("001", "002"):
            assert {path.name for path in (tmp_path / "runs" / name).iterdir()} == FILES
            assert load_dictionary(tmp_path / "runs" / name / "dictionary.safetensors").step == 10

    @slow
    def test_of_two_in_one_folder_one_goes_on(self, whole, pictures, tmp_path) -> None:
        run = LearningRun(settings(pictures))
        run.log_metrics(seconds=0.0)
        run.save(tmp_path / "run")
        text = """
from gramian.images.run import LearningRun
real = LearningRun.advance
def slowly(self):
    if self.step == 0:
        print("begun", flush=True)
        sys.stdin.read()
    return real(self)
LearningRun.advance = slowly
loop.continue_run(images.IMAGES, Path("run"))
"""
        first = program(text, folder=tmp_path, stdin=subprocess.PIPE)
        assert any(line == "begun\n" for line in first.stdout)
        before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
        second = subprocess.run(
            [*COMMAND, "learn", "--resume", "--out", "run"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (second.returncode, second.stdout) == (2, "")
        reason = "used by one process at a time; got one that uses it now"
        assert re.fullmatch(rf"gramian: run must be {reason}.*\n", second.stderr), second.stderr
        assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
        code, _, err = ended(first)  # which closes what it waits for
        assert (code, err) == (0, "")
        is_the_same(tmp_path / "run", whole)


class TestFullDisk:
    @pytest.mark.parametrize("limit", [100, 600])
    def test_no_files_remain_if_the_first_checkpoint_fails(self, pictures, tmp_path, limit) -> None:
        with pytest.raises(RunError, match=r"could not be written: File too large"), files_up_to(limit):
            LearningRun(settings(pictures)).save(tmp_path / "run")
        assert not list(tmp_path.iterdir())

    def test_later_the_last_checkpoint_stays(self, whole, pictures, tmp_path) -> None:
        run = LearningRun(settings(pictures))
        run.log_metrics(seconds=0.0)
        run.save(tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        while run.step < 20:
            run.advance()
        with pytest.raises(RunError, match=r"could not be written: File too large"), files_up_to(100):
            run.save(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        assert LearningRun.resume(tmp_path).step == 0


class files_up_to:  # noqa: N801 (it is used as a function)
    """No file of this process may grow beyond a size, as on a full disk."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)
        signal.signal(signal.SIGXFSZ, self.handler)


class TestReport:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_an_interrupted_report_names_the_command_that_creates_it(
        self, pictures, tmp_path, number, code, capsys
    ) -> None:
        from gramian.cli.runs import images, report

        run = LearningRun(settings(pictures))
        run.save(tmp_path / "run")

        def drawing(run: LearningRun, **_: object) -> None:
            os.kill(os.getpid(), number)
            time.sleep(10)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(images, "learning_record", drawing)
            with pytest.raises(SystemExit) as left:
                report.make_report(run, tmp_path / "run", images.write_page)
        assert left.value.code == code
        shown = capsys.readouterr().out
        assert re.fullmatch(
            r"the dictionary and the metrics are in .*run; no report yet; to write it: gramian report .*run\n", shown
        )
        assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {"report.html"}
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_it_is_followed(self, pictures, tmp_path, capsys) -> None:
        from gramian.cli.runs import images, report

        told: Callable[[str, int, int], None] | None = None

        def drawn(record: object, progress: Callable[[str, int, int], None]) -> str:
            nonlocal told
            told = progress
            for done in range(3):
                progress("groups [of] atoms", done, 2)
            return "<p>\udcff</p>"  # a name that is not UTF-8

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(images, "learning_record", lambda run, **_: run)
            patch.setattr(images, "render_report", drawn)
            report.make_report(LearningRun(settings(pictures)), tmp_path, images.write_page)
        assert told is not None
        assert (tmp_path / "report.html").read_bytes() == b"<p>?</p>"
        assert capsys.readouterr().out == ""  # no bars but on a terminal


@slow
def test_a_picture_whose_name_is_not_utf8(tmp_path) -> None:
    folder = save_crops(tmp_path / "pictures", count=2, side=32)
    (folder / "1.png").rename(folder / os.fsdecode(b"z\xff.png"))  # the last is held out
    done = subprocess.run(
        [*COMMAND, "learn", "--images", "pictures", "--groups", "4x2", "--patch", "4", "--steps", "3", "--out", "run"],
        cwd=tmp_path, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "utf-8:replace"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert r"z\udcff.png" in (tmp_path / "run" / "report.html").read_text()


class TestDamage:
    def test_no_damaged_codes_are_decoded(self, tmp_path) -> None:
        victim = fuzz_runs.Victim(tmp_path)
        draw, content = random.Random(0), victim.whole[victim.codes]
        decoded = 0
        for _ in range(400):
            damaged = fuzz_runs.changed(content, draw)
            victim.codes.write_bytes(damaged)
            try:
                read = load_codes(victim.codes)
            except GramianError:
                continue
            # Blanks around the header, a change undone by the next one: the codes are those that were written.
            decoded += 1
            assert torch.equal(read.codes, victim.encoded.codes)
            assert torch.equal(read.samples.means, victim.encoded.samples.means)
            assert (read.name, read.samples.shape) == (victim.encoded.name, victim.encoded.samples.shape)
        assert decoded < 8

    def test_a_second_of_hostile_files(self) -> None:
        fuzz_runs.run(1.0, seed=0)


def test_a_resumed_run_sweeps_what_dead_processes_left(pictures, tmp_path) -> None:
    from gramian.cli.runs.images import IMAGES
    from gramian.cli.runs.loop import continue_run

    folder = tmp_path / "run"
    run = LearningRun(settings(pictures, steps=1))
    run.advance()
    run.log_metrics(seconds=0.0)
    run.save(folder)
    (folder / "report.html").touch()
    (folder / ".gramian-0123456789ab.tmp").touch()
    (folder / ".other.tmp").touch()
    with lock_folder(folder), pytest.raises(RunError, match="used by one process at a time"):
        continue_run(IMAGES, folder)
    continue_run(IMAGES, folder)
    assert {path.name for path in folder.iterdir()} == FILES | {".other.tmp"}
