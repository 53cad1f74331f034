#!/usr/bin/env bash
# Installs the package if needed and runs the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
# One test process for each core, and one thread for each process.
export OMP_NUM_THREADS=1
exec "${CL_AC_VENV:-.venv}/bin/python" -m pytest -n auto --dist worksteal "$@"
