#!/usr/bin/env bash
# Continual learning on split digits with LwF, without and with auxiliary classifiers (ACs), and a table of both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
cl_ac="${CL_AC_VENV:-.venv}/bin/cl-ac"
out="runs/quickstart"
# The network is so small that a second thread would only wait for the first.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

"$cl_ac" run --config scripts/benchmarks/digits_5x2.yaml --approach LwF --out "$out" --name LwF --resume
"$cl_ac" run --config scripts/benchmarks/digits_5x2.yaml --approach LwF --exits sdn --out "$out" --name LwF+AC --resume
"$cl_ac" report "$out/LwF" "$out/LwF+AC" --out "$out/report"
echo
echo "TensorBoard:  ${cl_ac%/*}/tensorboard --logdir $out"
