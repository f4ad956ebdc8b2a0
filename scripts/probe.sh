#!/usr/bin/env bash
# Measures steps of a recipe on this machine's device, in minutes, before the hours are paid for.
#
#   bash scripts/probe.sh CONFIG [WORKERS] [--overlay YAML] [--output probe.json] [key.path=value ...]
#
#   bash scripts/probe.sh yaml/lora_finetune_packed.yaml
#   python research_internlm/plan.py --config yaml/lora_finetune_packed.yaml --items 138020 --probe probe.json
#
# Nothing needs to be there: weights are random, rows are made. All rules: research_internlm/probe.py (--help).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh"
exec python "$root/research_internlm/probe.py" "$@"
