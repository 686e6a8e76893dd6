"""The command line as a process: what it loads, what it says when something fails, and how it ends."""

import ast
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gramian.activations.settings import FeatureSettings
from gramian.cli import choices, main
from gramian.coding.features.module import ENCODERS, SELECTIONS
from gramian.coding.inference import METHODS
from gramian.coding.learning.options import UPDATES
from gramian.coding.priors import PRIORS
from gramian.images.run import RunSettings
from gramian.images.samples import WHITENINGS
from gramian.penalties import PENALTIES
from gramian.rules import RULES
from tests.faults.fuzz_commands import run as fuzz

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")


def python(code: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run a script in a process of its own, where torch is not loaded yet."""
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, check=False, timeout=400, **options)


def command(body: str, *, before: str = "", **options) -> subprocess.CompletedProcess:
    """Run `end` on a command of these lines, without torch: what a shell sees of it."""
    code = f"""
import os, signal, sys, time, warnings
{textwrap.dedent(before)}
from gramian.cli.exit_status import end

def command():
{textwrap.indent(textwrap.dedent(body), "    ")}

sys.exit(end(command))
"""
    return python(code, **options)


NUMPY = [
    ("import gramian.activations", "numpy", "activations"),
    ("import gramian.coding; gramian.coding.SubspaceSparseCoding", "numpy", "coding"),
    ("import gramian.images", "numpy", "coding"),  # images imports coding first
    ("import gramian.report", "numpy", "report"),
]
OTHERS = [
    ("import gramian.coding; gramian.coding.SubspaceSparseCoding", "sklearn", "coding"),
    ("import gramian.images.samples; gramian.images.samples.shipped_images()", "skimage", "images"),
    ("import gramian.report; gramian.report.png(None)", "PIL", "report"),
    ("import gramian.weights", "safetensors", "weights"),
]
"""What is asked for, what is not installed, and the package that the error names."""


class TestLoading:
    @pytest.mark.parametrize(
        "arguments",
        [["--version"], ["--help"], ["learn", "--help"], ["capture", "--help"], ["orthogonalize", "--help"]],
    )
    def test_help_loads_neither_torch_nor_the_extras(self, arguments) -> None:
        heavy = {"torch", "numpy", "sklearn", "skimage", "matplotlib", "PIL", "einops", "safetensors"}
        done = python(
            f"""
            import atexit, sys
            from gramian.cli import main
            sys.argv = ["gramian", *{arguments}]
            atexit.register(lambda: print("loaded", sorted({heavy} & set(sys.modules)), len(sys.modules)))
            main()
            """,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        loaded, number = re.search(r"loaded (.*) (\d+)", done.stdout).groups()
        assert ast.literal_eval(loaded) == []
        assert int(number) < 700
        assert done.stderr == ""

    def test_the_choices_are_those_of_the_package(self) -> None:
        assert tuple(PENALTIES) == choices.PENALTIES
        assert tuple(RULES) == choices.RULES
        assert tuple(WHITENINGS) == choices.WHITENINGS
        assert tuple(UPDATES) == choices.UPDATES
        assert tuple(PRIORS) == choices.PRIORS
        assert tuple(METHODS) == choices.METHODS
        assert (ENCODERS, SELECTIONS) == (choices.ENCODERS, choices.SELECTIONS)
        settings = RunSettings()
        assert {name: getattr(settings, name) for name in vars(choices.DEFAULTS)} == vars(choices.DEFAULTS)
        features = FeatureSettings(store="")
        defaults = vars(choices.FEATURE_DEFAULTS)
        assert {name: getattr(features, name) for name in defaults} == defaults

    def test_the_package_loads_torch_at_the_first_name_and_keeps_its_functions(self) -> None:
        done = python("""
            import sys
            import gramian
            assert "torch" not in sys.modules and gramian.__version__
            assert {*gramian.__all__, "penalties"} <= set(dir(gramian))
            from gramian.orthogonalize import Orthogonalization
            import gramian.orthogonalize
            assert callable(gramian.orthogonalize) and gramian.orthogonalize.__name__ == "orthogonalize"
            assert gramian.penalties.PENALTIES and gramian.training.attach is gramian.attach
            try:
                gramian.nothing
            except AttributeError:
                print("done")
        """)
        assert done.stdout == b"done\n", done.stderr

    @POSIX
    @pytest.mark.parametrize("cases", [NUMPY, OTHERS], ids=["numpy", "others"])
    def test_a_missing_extra_is_named(self, cases) -> None:
        done = python(f"""
            import os, sys
            refused = {"numpy" if cases is NUMPY else ""!r}
            class Refusing:
                def find_spec(self, name, path=None, target=None):
                    if name.partition(".")[0] == refused:
                        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
            sys.meta_path.insert(0, Refusing())
            import torch
            from gramian import GramianError
            for use, refused, _ in {cases}:
                child = os.fork()  # torch is imported, and nothing that needs an extra
                if not child:
                    try:
                        exec(use)
                    except ImportError as error:
                        assert isinstance(error, GramianError)
                        print(error, flush=True)
                    os._exit(0)
                os.waitpid(child, 0)
        """)
        assert done.stdout.decode().splitlines() == [
            f"gramian.{package} needs {missing}, which must be installed; try pip install 'gramian[coding]'"
            for _, missing, package in cases
        ], done.stderr

    def test_a_missing_typer_is_named(self) -> None:
        done = python("""
            import sys
            sys.modules["typer"] = None
            from gramian.cli import main
            main()
        """)
        assert done.returncode == 2
        assert b"the command line needs typer, which must be installed; try pip install 'gramian[cli]'" in done.stderr
        assert done.stderr.count(b"\n") == 1


class TestOutput:
    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
    def test_what_cannot_be_encoded_is_replaced(self, encoding) -> None:
        done = command(
            """
            from rich.console import Console
            print("β caf\\udce9")
            Console().print("Φ caf\\udce9", markup=False)
            """,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == b"? caf?\n? caf?\n"

    def test_without_a_language(self) -> None:
        done = command('print("β caf\\udce9")', env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(b" caf?\n")

    def test_explain_finishes_its_work(self) -> None:
        done = python(
            "import sys; sys.argv = ['gramian', 'explain']; from gramian.cli import main; main()",
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
        assert done.returncode == 0, done.stderr
        assert b"25  Prox: the proximal step" in done.stdout
        assert done.stderr == b""

    @POSIX
    @pytest.mark.parametrize("writing", ["print('x' * 2**18)", "Console().print('x')", "print('x')"])
    def test_a_closed_pipe_ends_quietly(self, writing) -> None:
        reading, end = os.pipe()
        os.close(reading)
        done = command(f"from rich.console import Console\n{writing}", stdout=end)
        os.close(end)
        assert (done.returncode, done.stderr) == (141, b"")

    @POSIX
    def test_a_closed_pipe_through_typer(self) -> None:
        reading, end = os.pipe()
        os.close(reading)
        done = python("import sys; sys.argv[0] = 'gramian'; from gramian.cli import main; main()", "--help", stdout=end)
        os.close(end)
        assert (done.returncode, done.stderr) == (141, b"")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
    def test_a_full_disk_behind_the_output(self) -> None:
        with Path("/dev/full").open("wb") as full:
            done = command("print('x')", stdout=full)
            assert done.returncode == 2
            assert re.fullmatch(rb"gramian: the system refuses a file or a stream: .*\n", done.stderr)
            assert command("raise ValueError('x')", stdout=full, stderr=full).returncode == 70

    @POSIX
    def test_closed_streams(self, tmp_path) -> None:
        shell = ["sh", "-c", 'exec "$0" "$@" 0<&- 1>&- 2>&-', sys.executable, "-c"]
        code = f"""
import sys
from gramian.cli.exit_status import end
def command():
    print("lost")
    file = open({str(tmp_path / "file")!r}, "w")
    assert file.fileno() > 2
sys.exit(end(command))
"""
        assert subprocess.run([*shell, code], check=False).returncode == 0

    def test_warnings_take_one_line(self) -> None:
        done = command("warnings.warn('some\\nthing \\x1b[31mred\\x1b[0m', UserWarning)")
        assert (done.returncode, done.stderr) == (0, b"gramian: warning: some thing red\n")

    def test_a_warning_is_shown_once_for_each_place(self) -> None:
        done = command("for number in range(100):\n    warnings.warn(f'gap {number}', UserWarning)")
        assert (done.returncode, done.stderr) == (0, b"gramian: warning: gap 0\n")

    @pytest.mark.parametrize("argument", ["[red]x", "[/]", "[link=x]y", "caf\udce9", "Ω", "a\nb", "\x1b[31mx"])
    def test_a_usage_error_shows_names_as_they_are(self, argument, monkeypatch, capfd) -> None:
        monkeypatch.setattr("sys.argv", ["gramian", "explain", argument])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
        err = capfd.readouterr().err
        assert ended.value.code == 2
        assert "Traceback" not in err
        if argument.isprintable():
            assert f"({argument})" in err


class TestEnding:
    @pytest.mark.parametrize(
        ("body", "code", "message"),
        [
            ("pass", 0, ""),
            ("sys.exit(1)", 1, ""),
            ("from gramian.errors import RunError\nraise RunError('a\\nb [red]')", 2, r"gramian: a b \[red\]"),
            ("sys.exit('words')", 2, "gramian: words"),
            ("raise MemoryError", 2, "gramian: there must be enough memory; .*"),
            ("open('no/such')", 2, "gramian: the system refuses no/such: No such file or directory"),
            ("open('x' * 300)", 2, "gramian: the system refuses x{300}: File name too long"),
            ("raise KeyboardInterrupt", 130, "gramian: interrupted"),
            ("os.kill(os.getpid(), signal.SIGINT)", 130, "gramian: interrupted"),
        ],
    )
    def test_one_line_and_a_status(self, body, code, message) -> None:
        done = command(body)
        assert done.returncode == code
        assert re.fullmatch(message + r"\n" if message else "", done.stderr.decode())

    def test_an_unexpected_error_writes_a_log(self, tmp_path) -> None:
        done = command("raise RuntimeError('long\\nstory ' * 100)", env={**os.environ, "TMPDIR": str(tmp_path)})
        assert done.returncode == 70
        (log,) = tmp_path.iterdir()
        line = done.stderr.decode()
        assert re.fullmatch(r"gramian: unexpected error: RuntimeError: long story .*…; .*\n", line)
        assert line.endswith(f"the traceback is in {log}\n")
        assert len(line) < 600
        text = log.read_text(encoding="utf-8")
        assert "Traceback (most recent call last)" in text
        assert "gramian 0." in text

    def test_an_unexpected_error_without_a_folder_for_the_log(self) -> None:
        done = command("raise RuntimeError('x')", before="import tempfile; tempfile.tempdir = '/no/such'")
        assert done.returncode == 70
        assert b"Traceback" in done.stderr
        assert done.stderr.endswith(b"RuntimeError: x; no log could be written: No such file or directory\n")

    @POSIX
    @pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
    def test_a_signal_removes_what_is_temporary(self, tmp_path, name, code) -> None:
        done = command(
            f"""
            import tempfile
            with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):
                os.kill(os.getpid(), signal.{name})
                time.sleep(60)
            """
        )
        assert done.returncode == code
        assert list(tmp_path.iterdir()) == []
        assert done.stderr.count(b"\n") == 1

    @POSIX
    def test_a_handler_within_a_command_is_given_back(self) -> None:
        done = command("""
            from gramian.cli.runs.loop import _stop_signal
            outer = signal.getsignal(signal.SIGTERM)
            with _stop_signal() as received:
                os.kill(os.getpid(), signal.SIGTERM)
                assert len(received) == 1
            assert signal.getsignal(signal.SIGTERM) is outer
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        """)
        assert done.returncode == 143, done.stderr

    @POSIX
    def test_an_ignored_signal_stays_ignored(self) -> None:
        done = command(
            "os.kill(os.getpid(), signal.SIGHUP); print('on')", before="signal.signal(signal.SIGHUP, signal.SIG_IGN)"
        )
        assert (done.returncode, done.stdout) == (0, b"on\n")

    @POSIX
    def test_handlers_are_restored(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        from gramian.cli.exit_status import end

        assert end(lambda: None) == 0
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "d", "i", "-o", "o", "--stride", "0"], "--stride must be at least 1; got 0"),
        (["encode", "d", "i", "-o", "o", "--tol", "nan"], "--tol must be positive and finite; got nan"),
        (["encode", "d", "i", "-o", "o", "--tol", "-1"], "--tol must be positive and finite; got -1"),
        (["encode", "d", "i", "-o", "o", "--tol", "inf"], "--tol must be positive and finite; got inf"),
        (["orthogonalize", "i.npz", "-o", "o.npz", "--max-steps", "-1"], "--max-steps must be at least 0; got -1"),
    ],
)
def test_options_out_of_range(arguments, message, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["gramian", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_arguments_at_random() -> None:
    fuzz(seconds=20, seed=0)
