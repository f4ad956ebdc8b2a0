#!/usr/bin/env bash
# Uploads to OBS, resumable and verified: bash scripts/upload_obs.sh SRC obs://bucket/prefix (--help says more)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh"
exec python "$root/research_internlm/upload.py" "$@"
