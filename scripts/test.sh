#!/usr/bin/env bash
# Installs the package if needed and runs the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
exec "${CL_AC_VENV:-.venv}/bin/python" -m pytest "$@"
