#!/usr/bin/env bash
# Starts a training run on several workers of this machine (NPUs, or CPU processes for a rehearsal).
#
#   bash scripts/train_msrun.sh CONFIG [WORKERS] [msrun options] [-- run_internlm.py options]
#
#   bash scripts/train_msrun.sh yaml/lora_finetune.yaml 4 -- --train_dataset train.mindrecord \
#       --eval_dataset valid.mindrecord --load_checkpoint base.ckpt --output_dir output/run1
#
# The same command again continues the run from its last complete checkpoint. Logs of each attempt go to
# OUTPUT_DIR/msrun_log/attempt-NNN. All rules are in research_internlm/launch.py (--help).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh"
exec python "$root/research_internlm/launch.py" "$@"
