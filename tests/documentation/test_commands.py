"""The page of the commands shows every command with every option and default, as `--help` does."""

import re

import pytest
from typer.testing import CliRunner

from tests.documentation.conftest import DOCS, load

commands = load("commands")
PAGE = commands.on_page_markdown((DOCS / "commands.md").read_text(encoding="utf-8"))


def help_of(name: str) -> str:
    from gramian.cli.application import application

    run = CliRunner().invoke(application, [name, "--help"], env={"COLUMNS": "400", "TERM": "dumb", "NO_COLOR": "1"})
    assert run.exit_code == 0
    return run.output


def test_every_command_has_a_section() -> None:
    from gramian.cli.application import application

    listed = CliRunner().invoke(application, ["--help"], env={"TERM": "dumb", "NO_COLOR": "1"}).output
    for name in commands.commands():
        assert re.search(rf"\b{name}\b", listed)
        assert f"\n## gramian {name}\n" in PAGE
    assert commands.PLACE not in PAGE


@pytest.mark.parametrize("name", commands.commands())
def test_a_section_has_the_options_of_the_help(name) -> None:
    text = help_of(name)
    section = commands.section(name, commands.commands()[name])
    options = set(re.findall(r"(?<![\w'-])--[a-z][a-z-]*", text.partition("Options")[2])) - {"--help"}
    terms = [line for line in section.splitlines() if line.startswith("`-")]
    assert options <= {option for line in terms for option in re.findall(r"`(--[a-z-]+)`", line)}
    for default in re.findall(r"\[default: ([^\]]+)\]", text):
        assert f"*Default: {default}.*" in section


def test_a_term_has_its_names_its_value_and_its_default() -> None:
    text = commands.section("learn", commands.commands()["learn"])
    assert "`--out`, `-o` `PATH`\n:   Folder for the result. *Default: the next free of runs/001, runs/002 ….*" in text
    assert "`--resume`\n:   Continue the run in `--out`" in text
    assert "`--resume` continues from there. torchrun starts" in " ".join(text.split())
    assert "`torchrun --nproc-per-node=2 --no-python gramian learn`" in text
    text = commands.section("capture", commands.commands()["capture"])
    assert "gramian capture MODEL INPUTS --layer TEXT... --out PATH [OPTIONS]" in text
    assert "`--batch` `INTEGER`\n:   Texts or pictures in a batch. *Default: 32.*" in text
    text = commands.section("explain", commands.commands()["explain"])
    assert "`--l` `INTEGER`" in text
    assert "`--seed` `INTEGER`\n:   Seed of the random numbers. *Default: 0.*" in text
