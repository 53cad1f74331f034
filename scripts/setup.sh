#!/usr/bin/env bash
# Makes the virtual environment .venv and installs the package in it, unless that is done already.
# Another folder: CL_AC_VENV=/path. Another interpreter: PYTHON=python3.12.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${CL_AC_VENV:-.venv}"
python="${PYTHON:-python3}"
stamp="$venv/installed-from"
wanted="$(cat setup.cfg pyproject.toml | cksum)"

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "cl_ac needs Python 3.11 or newer; $python is $("$python" --version). Set PYTHON=/path/to/python." >&2
    exit 2
}
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing cl_ac and its dependencies in $venv (several GB, a few minutes)"
    if command -v uv >/dev/null; then
        [ -x "$venv/bin/python" ] || uv venv --quiet --python "$python" "$venv"
        uv pip install --quiet --python "$venv/bin/python" --editable '.[dev]'
    else
        [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
    fi
    echo "$wanted" > "$stamp"
fi
