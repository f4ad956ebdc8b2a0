#!/usr/bin/env bash
# Rehearses a recipe on this machine's own NPUs (or its CPU) with a tiny model, in minutes:
#
#   bash scripts/rehearse.sh CONFIG [WORKERS] [-- run_internlm.py options]
#
# All rules are in research_internlm/rehearse.py (--help).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh"
exec python "$root/research_internlm/rehearse.py" "$@"
