"""Exit codes and error lines that a shell user expects."""

import resource
import subprocess

import pytest

from unending import __version__, cli
from unending.cli import main


def complaint(capsys):
    """The one line on standard error."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("unending: ")
    assert err.count("\n") == 1
    return err


def test_no_command_is_wrong_usage(capsys):
    assert main([]) == 2
    assert "usage: unending COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_help_is_no_mistake(flag, capsys):
    assert main([flag]) == 0
    out = capsys.readouterr().out
    for command in ("list", "run", "chat", "check", "bench"):
        assert f"\n  {command} " in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"unending {__version__}\n"


@pytest.mark.parametrize("command", ["list", "run", "chat", "check", "bench"])
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: unending {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "no command 'bogus'"),
        (["run", "bogus", "a.txt"], "no system 'bogus'; there are: "),
        (["run", "streaming-llm"], "SOURCE"),
        (["run", "streaming-llm", "a.txt", "--bogus"], "--bogus"),
        (["run", "streaming-llm", "a.txt", "--chunk", "many"], "--chunk"),
        (["run", "streaming-llm", "a.txt", "--chunk", "0"], "chunk and max_new_tokens are 1 or more"),
        (["run", "nowhere:Thing", "a.txt"], "cannot load nowhere:Thing"),
        (["run", "json:JSONDecoder", "a.txt"], "json:JSONDecoder is not an Operator class"),
        (["run", "--json", "json:JSONDecoder", "a.txt"], "the system comes first"),
        (["chat", "bogus"], "no system 'bogus'"),
        (["check"], "SYSTEM"),
        (["check", "bogus"], "no system 'bogus'"),
        (["check", "streaming-llm", "--profile", "lax"], "lax"),
        (["bench", "bogus"], "no system 'bogus'"),
        (["list", "--bogus"], "--bogus"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, says, capsys):
    assert main(arguments) == 2
    assert says in complaint(capsys)


def test_ctrl_c_is_exit_code_130(monkeypatch, capsys):
    def command(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_command", lambda name: command)
    assert main(["run"]) == 130
    assert complaint(capsys) == "unending: interrupted\n"


def test_a_process_gives_the_same_codes(shell):
    assert shell("bogus") == (2, "", "unending: no command 'bogus'; see unending --help\n")
    assert shell("--version")[:2] == (0, f"unending {__version__}\n")


def test_a_reader_that_goes_away_is_no_error(shell):
    process = shell.start("list", "--json")
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""


def test_list_starts_at_once(shell):
    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert shell("list", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)[0] == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5
