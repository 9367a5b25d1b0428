#!/bin/sh
# Creates .venv from uv.lock with any Python >= 3.12 (and uv, in .venv-uv, where it is absent).
# Does nothing when the .venv already belongs to this uv.lock.
set -eu
cd "$(dirname "$0")/.."

cmp -s uv.lock .venv/uv.lock && .venv/bin/python -c "" 2>/dev/null && exit 0

fail() {
    echo "$1" >&2
    exit 1
}

wanted=$(cat .python-version)
pyenv=${PYENV_ROOT:-${HOME:-}/.pyenv}/versions

# find_python IMPORTS: the path of the first Python >= 3.12 that runs and has these modules. Names on PATH may be
# pyenv's shims, which refuse to run, so pyenv's own folder is searched as well.
find_python() {
    for candidate in .venv/bin/python "python$wanted" "$pyenv/$wanted"*/bin/python python3.12 python3.13 python3.14 \
        python3 python "$pyenv"/3.*/bin/python "$(uv python find --system '>=3.12' 2>/dev/null)"; do
        "$candidate" -c "import sys, $1; assert sys.version_info >= (3, 12); print(sys.executable)" 2>/dev/null &&
            return
    done
    return 1
}

if ! python=$(find_python sys); then
    fail "Python 3.12 or newer is missing (neither on PATH nor in $pyenv): install it and run make again."
fi

uv=uv
$uv --version >/dev/null 2>&1 || uv=.venv-uv/bin/uv
if ! $uv --version >/dev/null 2>&1; then
    if ! python=$(find_python "venv, ensurepip"); then
        fail "uv is missing, and so is Python's venv module to install it with: install uv or python$wanted-venv."
    fi
    echo "Installing uv into .venv-uv with $python"
    "$python" -m venv --clear .venv-uv
    .venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv
fi

echo "Creating .venv from uv.lock with $python"
unset VIRTUAL_ENV
export UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}" # trust what the machine trusts, as pip and git do
# A process that may not write bytecode would compile all of it at every start, for seconds.
$uv sync --quiet --frozen --compile-bytecode --python "$python"
cp uv.lock .venv/uv.lock
