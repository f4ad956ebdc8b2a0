#!/usr/bin/env bash
# Starts a training run on several workers of this machine (NPUs, or CPU processes for a rehearsal).
#
#   bash scripts/train_msrun.sh CONFIG [WORKERS] [msrun options] [-- run_internlm.py options]
#
#   bash scripts/train_msrun.sh yaml/lora_finetune.yaml 4 -- --train_dataset train.mindrecord \
#       --eval_dataset valid.mindrecord --load_checkpoint base.ckpt --output_dir output/run1
#
# Logs go to OUTPUT_DIR/msrun_log (scheduler.log, worker_0.log, ...). Multi-node: give msrun's own options,
# e.g. --worker_num=8 --master_addr=... --node_rank=...
set -euo pipefail
if [[ $# -lt 1 || $1 == -h || $1 == --help ]]; then
    sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ -d $root/.venv ]] && export PATH="$root/.venv/bin:$PATH"

config=$1
shift
workers=4
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    workers=$1
    shift
fi
msrun_options=()
while [[ $# -gt 0 && $1 != -- ]]; do
    msrun_options+=("$1")
    shift
done
[[ ${1:-} == -- ]] && shift

output_dir=./output
parallel=True
for ((i = 1; i <= $#; i++)); do
    [[ ${!i} == --output_dir ]] && next=$((i + 1)) && output_dir=${!next}
done
[[ $workers -eq 1 ]] && parallel=False

status=0
msrun --worker_num="$workers" --local_worker_num="$workers" --master_port="${MASTER_PORT:-8118}" \
    --log_dir="$output_dir/msrun_log" --join=True --cluster_time_out=7200 "${msrun_options[@]}" \
    "$root/research_internlm/run_internlm.py" --config "$config" --use_parallel "$parallel" "$@" || status=$?
if [[ $status -ne 0 ]]; then
    # msrun's own traceback hides the reason, which is in a worker's log.
    grep -h '^error:' "$output_dir"/msrun_log/*.log 2>/dev/null | sort -u >&2 || true
    echo "training failed (msrun exit code $status); logs: $output_dir/msrun_log" >&2
    grep -qs '^error:' "$output_dir"/msrun_log/*.log && status=2
fi
exit "$status"
