"""A folder with a tiny model for the command line, and the command line as a process of its own."""

import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    from unending.parts.backbones.tiny import tiny_llama

    folder = tmp_path_factory.mktemp("models") / "tiny"
    for part in tiny_llama():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def flags(model):
    """What makes streaming-llm tiny."""
    settings = "--sink-size 2 --window-size 14 --chunk 4 --max-new-tokens 2"
    return ["--model", str(model), *settings.split()]


@pytest.fixture
def shell(tmp_path):
    """Run the command line as a shell does; `shell.start(...)` does not wait."""

    def start(*arguments, **options):
        pipe = subprocess.PIPE
        settings = {"cwd": tmp_path, "stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, **options}
        process = subprocess.Popen([sys.executable, "-m", "unending", *map(str, arguments)], **settings)
        started.append(process)
        return process

    def run(*arguments, **options):
        process = start(*arguments, **options)
        out, err = process.communicate(timeout=60)
        return process.returncode, (out or b"").decode(), (err or b"").decode()

    started = []
    run.start = start
    yield run
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """No command depends on the current folder."""
    monkeypatch.chdir(tmp_path)
