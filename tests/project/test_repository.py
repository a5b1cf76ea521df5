"""Files in the repository: nothing of one machine in them, and scripts that can be run."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ["scripts/demo", "scripts/test", "scripts/check", "scripts/bench", "scripts/docs", ".ci/run"]
INSTALLERS = [*SCRIPTS, "scripts/_env.sh", "pyproject.toml", "constraints.txt", "assets.txt", "apt.txt"]
# Places where checkouts, homes and local package folders live.
MACHINE_PATH = re.compile(r"(?<![\w.:~/-])/(?:home|root|Users|work|workspace|mnt|opt|data)/[\w.-]+")
INDEX_OPTION = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host|://|@ file:")


def repository_files() -> list[Path]:
    """Every file that git tracks, or would track if it were added."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_path_of_one_machine() -> None:
    found = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights, pictures
        here = {str(ROOT), str(Path.home())} - {"/"}
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line) or any(each in line for each in here):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def test_installation_names_no_registry() -> None:
    for name in INSTALLERS:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        found = [line for line in lines if INDEX_OPTION.search(line)]
        assert not found, f"{name}: {found}"


def test_constraints_pin_every_package() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert any(pin.startswith("torch==") for pin in pins)
    assert len({pin.partition("==")[0].lower().replace("_", "-") for pin in pins}) == len(pins)


def test_nothing_in_the_repository_is_large() -> None:
    large = [path for path in repository_files() if path.stat().st_size > 5_000_000]
    assert not large, "weights are at most 4 MB each"


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_can_be_run(name: str) -> None:
    path = ROOT / name
    assert os.access(path, os.X_OK), f"{name} is not executable"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# "), "the second line says what the script is for"
    assert "set -euo pipefail" in lines
    checked = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
