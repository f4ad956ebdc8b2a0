#!/usr/bin/env bash
# Evaluates a checkpoint of a run; results and log stay in RUN_DIR, where report and submission look for them.
#
#   bash scripts/evaluate.sh RUN_DIR mmlu|squad|detection|loss [evaluate.py options]
#
#   bash scripts/evaluate.sh output/run1 squad --config yaml/predict_eval_squad.yaml --load_checkpoint CKPT \
#       --model_file tokenizer.model --squad_file dev-v1.1.json
#
# Writes RUN_DIR/results_TASK_CKPT.json and RUN_DIR/TASK_CKPT.log; a second evaluation of the same checkpoint
# is refused unless --overwrite is given. The rules are in research_internlm/launching/evaluation_run.py.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh"
if [[ $# -lt 2 || $1 == -* ]]; then
    sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
    exit 2
fi
exec python "$root/research_internlm/evaluate.py" "$2" --run_dir "$1" "${@:3}"
