#!/usr/bin/env bash
# Uploads to OBS, resumable and verified: bash scripts/upload_obs.sh SRC obs://bucket/prefix (--help says more)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ -d $root/.venv ]] && export PATH="$root/.venv/bin:$PATH"
exec python "$root/research_internlm/upload.py" "$@"
