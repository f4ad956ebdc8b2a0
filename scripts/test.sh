#!/usr/bin/env bash
# Set-up, then ruff and the tests. Arguments go to pytest: bash scripts/test.sh -k prompts
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
ruff check .
python -m pytest "$@"
