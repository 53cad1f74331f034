#!/usr/bin/env bash
# Checks style with ruff and types with mypy, in the environment that scripts/setup.sh makes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
bin="$(realpath "${CL_AC_VENV:-.venv}")/bin"
"$bin/ruff" check .
"$bin/ruff" format --check .
# Types are checked where the package is laid out as it is installed: approaches, datasets and kernels inside it.
root="$PWD"
installed="$(mktemp -d)"
trap 'rm -rf "$installed"' EXIT
cp -r cl_ac "$installed"
cp -r approaches datasets kernels "$installed/cl_ac"
cd "$installed"
"$bin/mypy" --config-file "$root/pyproject.toml" --cache-dir "$root/.mypy_cache"
