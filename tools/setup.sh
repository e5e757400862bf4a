#!/bin/sh
# Make .venv hold what requirements files ask for: `sh tools/setup.sh requirements.txt [requirements-dev.txt]`.
#
# The Makefile calls this before every target. A copy of each installed file is kept in .venv, so that a second call
# only compares. Set PYTHON to choose the Python of a new .venv.
set -eu
cd "$(dirname "$0")/.."

# 3.11 is the oldest that transformers takes. 3.14 is the newest that torch had wheels for when this was tried; a newer
# Python often comes out long before its torch does, so it is only taken, as plain `python3`, where there is no other.
candidates="python3.14 python3.13 python3.12 python3.11 python3"

say() { printf '%s\n' "$@" >&2; }
fail() { say "$@"; exit 1; }

# A name on PATH is not yet a Python that runs: pyenv's shims exist and refuse.
is_usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_usable "$PYTHON" || fail "PYTHON=$PYTHON does not run, or is older than 3.11." "Name another, or leave PYTHON out."
        echo "$PYTHON"
        return
    fi
    for python in $candidates; do
        if is_usable "$python"; then echo "$python"; return; fi
    done
    fail "There is no Python 3.11 or newer on PATH." \
        "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12"
}

make_venv() {
    python=$(find_python)
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import venv, ensurepip' 2>/dev/null || fail "Python $version ($python) has no venv module." \
        "Install it (Debian, Ubuntu: apt-get install python$version-venv), or name another Python: make PYTHON=python3.x"
    say "Making .venv with Python $version ($python)."
    mkdir .venv
    echo $$ >.venv/.unfinished
    "$python" -m venv .venv
}

# .unfinished lies in .venv from its making until pip has ended, and names the process at work: what an interrupted
# set-up leaves can't be trusted.
if [ -e .venv/.unfinished ] && kill -0 "$(cat .venv/.unfinished)" 2>/dev/null; then
    fail "Another set-up is at work here (process $(cat .venv/.unfinished))." "Wait for its end, or delete .venv."
fi
if [ -e .venv/.unfinished ] || ! is_usable .venv/bin/python; then
    if [ -e .venv ]; then
        say "The .venv here is half made, or its Python is gone: it is made anew."
        rm -rf .venv
    fi
    make_venv
fi

for file in "$@"; do
    if cmp -s "$file" ".venv/installed-$file"; then continue; fi
    echo $$ >.venv/.unfinished
    say "Installing $file into .venv."
    if [ "$file" = requirements.txt ] && [ ! -e .venv/installed-requirements.txt ]; then
        say "PyTorch is most of it: on Linux, with its CUDA libraries, about 3 GB to download and 6 GB on disk."
    fi
    .venv/bin/python -m pip install --disable-pip-version-check -r "$file"
    cp "$file" ".venv/installed-$file"
    rm .venv/.unfinished
done
