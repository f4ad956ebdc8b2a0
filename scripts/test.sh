#!/usr/bin/env bash
# Set-up, then ruff and the tests.
#
#   bash scripts/test.sh                 # everything
#   bash scripts/test.sh --quick         # what needs no model, about three minutes on 2 cores
#   bash scripts/test.sh -k prompts      # arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
selection=()
if [[ ${1:-} == --quick ]]; then
    selection=(-m "not model and not slow" -n 2 --dist loadfile)
    shift
fi
ruff check .
python -m pytest "${selection[@]}" "$@"
