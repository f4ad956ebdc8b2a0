#!/usr/bin/env bash
# Set-up, then ruff and the tests.
#
#   bash scripts/test.sh                 # everything
#   bash scripts/test.sh --quick         # what needs no model, two minutes on 2 cores
#   bash scripts/test.sh --pair 1.8.0    # the model tests with another MindFormers, in .venv-1.8.0
#   bash scripts/test.sh -k prompts      # arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
selection=()
pair=()
if [[ ${1:-} == --pair ]]; then
    export VENV=.venv-$2
    pair=(--pair "$2")
    selection=(-m model)
    shift 2
fi
bash scripts/setup.sh "${pair[@]}"
source scripts/environment.sh
if [[ ${1:-} == --quick ]]; then
    selection=(-m "not model and not slow" -n 2 --dist worksteal)
    shift
fi
ruff check .
python -m pytest "${selection[@]}" "$@"
