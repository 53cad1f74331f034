#!/usr/bin/env bash
# Checks style with ruff and types with mypy, in the environment that scripts/setup.sh makes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
bin="${CL_AC_VENV:-.venv}/bin"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
