"""`unending serve`, as a process that is talked to and killed."""

import os
import re
import signal
from pathlib import Path

import httpx
import pytest

from unending.cli import main
from unending.cli.serve import _bytes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def serving(shell):
    """Start a server on a free port; the process and its address."""

    def start(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = shell.start("serve", *arguments, "--port", "0", env=environment)
        line = process.stdout.readline().decode()
        found = re.search(r"http://\S+:\d+/", line)
        assert found, line + process.stderr.read().decode()
        return process, found[0], line

    return start


def ask(address, text, model="echo", session="mine"):
    body = {"model": model, "messages": [{"role": "user", "content": text}], "session": session}
    answer = httpx.post(f"{address}v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def stopped(process, number):
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    return process.returncode, err.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_no_failure(serving, number):
    process, address, line = serving("tests.serve.toys:Echo")
    assert line == f"echo: {address}; no --store: sessions end with it\n"
    assert ask(address, "why?") == "why?|"
    assert stopped(process, number) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_every_conversation_goes_on_after_the_end_of_the_process(serving, number, tmp_path):
    command = ["tests.serve.toys:Echo", "tests.serve.toys:Sum", "--store", tmp_path / "kept"]
    process, address, line = serving(*command)
    assert line.startswith("echo, sum: http://127.0.0.1:")
    for name in ("a", "b", "c"):
        body = [{"role": "user", "content": f"I am {name}"}, {"role": "user", "content": "who?"}]
        request = {"model": "echo", "messages": body, "session": name}
        assert httpx.post(f"{address}v1/chat/completions", json=request).status_code == 200
    code, err = stopped(process, number)
    assert (code, err) == ((0, "") if number == signal.SIGTERM else (-9, ""))
    process, address, _ = serving(*command)
    for name in ("a", "b", "c"):
        assert ask(address, "who?", session=name) == f"who?|User: I am {name}\n\n"
    assert stopped(process, signal.SIGTERM) == (0, "")


def test_the_example_of_a_real_system(serving):
    process, address, _ = serving("streaming-llm", "--example", "--log", "json", "--log-level", "info")
    assert httpx.get(f"{address}v1/models").json()["data"][0]["id"] == "streaming-llm"
    ask(address, "ok?", "streaming-llm")
    code, err = stopped(process, signal.SIGTERM)
    assert code == 0
    assert '"route": "/v1/chat/completions"' in err
    assert "ok?" not in err


def test_a_system_with_settings(serving, flags):
    pairs = zip(flags[::2], flags[1::2], strict=True)
    settings = [word for flag, value in pairs for word in ("--set", f"{flag.removeprefix('--')}={value}")]
    process, address, _ = serving("streaming-llm", *settings)
    (system,) = [each for each in httpx.get(f"{address}v1/systems").json()["systems"] if each["served"]]
    assert system["settings"]["window_size"] == 14
    assert system["settings"]["model"] == "tiny"  # the name of its folder, not the path
    assert stopped(process, signal.SIGTERM)[0] == 0


def test_tokens_from_the_first_to_the_door(serving, capsys, tmp_path):
    assert main(["serve", "--new-token", "ann"]) == 0
    shown = capsys.readouterr().out
    token = re.search(r"unending-\S+", shown)[0]
    line = shown.splitlines()[-1].partition(":  ")[2]
    (tmp_path / "tokens").write_text(f"{line} sessions=1\n")
    process, address, _ = serving("tests.serve.toys:Echo", "--token-file", tmp_path / "tokens")
    assert httpx.get(f"{address}v1/models").status_code == 401
    assert httpx.get(f"{address}v1/models", headers={"authorization": f"Bearer {token}"}).status_code == 200
    assert stopped(process, signal.SIGTERM)[0] == 0


def test_other_machines_are_let_in_only_on_purpose(serving, capsys):
    assert main(["serve", "streaming-llm", "--example", "--host", "0.0.0.0"]) == 2
    assert "--token-file" in capsys.readouterr().err
    process, address, _ = serving("tests.serve.toys:Echo", "--host", "0.0.0.0", "--insecure")
    assert ask(address.replace("0.0.0.0", "127.0.0.1"), "why?") == "why?|"
    code, err = stopped(process, signal.SIGTERM)
    assert code == 0
    assert err.startswith("unending: warning: other machines can come in WITHOUT A TOKEN")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a system"),
        (["nothing"], "no system 'nothing'"),
        (["streaming-llm", "streaming-llm", "--example"], "named twice"),
        (["streaming-llm", "--set", "speed=1"], "streaming-llm has"),
        (["streaming-llm", "--set", "window-size=much"], "window-size=much"),
        (["streaming-llm", "--set", "window-size"], "expected SYSTEM.FIELD=VALUE"),
        (["streaming-llm", "--set", "sum.width=1"], "expected SYSTEM.FIELD=VALUE"),
        (["streaming-llm", "--set", "chunk=0"], "chunk"),
        (["streaming-llm", "--example", "--set", "chunk=1"], "leave out --set"),
        (["streaming-llm", "--example", "--memory", "much"], "--memory much"),
        (["streaming-llm", "--example", "--memory", "1K"], "memory"),
        (["streaming-llm", "--example", "--slots", "0"], "slots=0"),
        (["streaming-llm", "--example", "--origin", "example.org"], "--origin example.org"),
        (["streaming-llm", "--example", "--limits", "speed=1"], "'speed=1' is no limit"),
        (["streaming-llm", "--example", "--port", "70000"], "cannot listen"),
        (["streaming-llm", "--example", "--late", "never"], "late"),
        (["--new-token", "a/b"], "no name for an owner"),
        (["streaming-llm", "--example", "--token-file", "nowhere"], "cannot read nowhere"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, says):
    assert main(["serve", *arguments]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert says in err


def test_bytes():
    assert [_bytes(text) for text in ("", "7", "2K", "1.5 MiB", "3g")] == [None, 7, 2048, 3 << 19, 3 << 30]
