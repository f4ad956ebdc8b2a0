#!/usr/bin/env bash
# Checks a run and packs its submission: bash scripts/package_submission.sh RUN_DIR --team NAME (--help says more)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh"
exec python "$root/research_internlm/submit.py" "$@"
