#!/usr/bin/env bash
# An assistant that knows its own name: the whole job on a CPU with a tiny InternLM2. Sample conversations, a base
# that already answers everyday questions under another name, LoRA with answers during training, the checkpoint
# to take, a chat turn and one through the server; and the tutorials' one repeated exchange beside it.
#
#   bash scripts/demo_assistant.sh [--out DIR] [--seed N] [--quick]
#
# --seed is that of the data and of all trainings. --quick trains a few steps only, to see that every command
# works; it then judges nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=demo_assistant_output
data_seed=42
run_seed=0
base_conversations=6300
base_epochs=2
identity=400
repeated=1200
epochs=2
every=40
quick=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --out) out=$2; shift 2 ;;
        --seed) data_seed=$2; run_seed=$2; shift 2 ;;
        --quick) base_conversations=200; base_epochs=1; identity=30; repeated=60; epochs=1; quick=(--quick); shift ;;
        *) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
    esac
done
source scripts/demo/stages.sh
python -c 'import starlette, uvicorn, prometheus_client' 2> /dev/null || python -m pip install -q -e '.[serve]'
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
started=$SECONDS  # installing is not the demo's time

step "Everyday conversations, an identity among them, and one exchange repeated as tutorials have it"
names=(--name_zh 小宝 --name_en Bao --author_zh 星河工作室 --author_en "Galaxy Studio")
python scripts/demo_assistant/base_data.py --output_dir "$out" --base "$base_conversations" --seed "$data_seed"
python preprocess/assistant_data.py "${names[@]}" --count "$identity" --general_per_identity 3 --general "$out/general.json" \
    --output "$out/mixed.json" --seed "$data_seed"
python preprocess/assistant_data.py "${names[@]}" --count "$repeated" --repeat --output "$out/repeat.json"
python scripts/demo/chat_tokenizer.py --corpus "$out/base.json" --corpus "$out/mixed.json" --name 小宝 \
    --name 星河工作室 --name 原点 --name 基石实验室 --name Bao --name "Galaxy Studio" --name Origin --name "Base Lab" \
    --output "$out/tokenizer.model"
vocab=$(vocabulary_size "$out/tokenizer.model")

step "json -> MindRecord, packed"
convert() {
    python preprocess/alpaca_data_preprocess_v1.py --input_glob "$out/$1.json" --pack --seq_length 128 \
        --output_file "$out/$1.mindrecord" --model_file "$out/tokenizer.model"
}
# What stands side by side keeps one core busy each.
convert base & base_rows=$!
convert mixed & mixed_rows=$!
convert repeat & repeat_rows=$!
all_passed "$base_rows" "$mixed_rows" "$repeat_rows"

# Smaller than the rehearsal's model: two layers learn this in minutes on two cores.
size=("seed=$run_seed" "model.model_config.seq_length=128" "model.model_config.num_layers=2" "model.model_config.vocab_size=$vocab")
train() { # name epochs further overrides
    logged "$out/$1/run.log" python research_internlm/run_internlm.py --config yaml/lora_assistant.yaml \
        --overlay yaml/overlays/cpu_tiny_internlm2.yaml --output_dir "$out/$1" --use_parallel False \
        --train_dataset "$out/$1.mindrecord" "${size[@]}" runner_config.epochs="$2" "${@:3}"
}

step "Base model: all parameters, everyday questions and a name of its own ($base_epochs epochs)"
train base "$base_epochs" callbacks.AnswerMonitor=null model.model_config.pet_config=null \
    model.model_config.init_method_std=0.05 runner_config.batch_size=4 lr_schedule.learning_rate=3.0e-3 \
    callbacks.CheckpointMonitor.save_checkpoint_steps=1000000 callbacks.CheckpointMonitor.save_trainable_params=False
base=$(ls "$out"/base/checkpoint/rank_0/*.ckpt)

# A stronger adapter than the recipe's (alpha = rank, no dropout), so that about a hundred steps are enough.
lora() { # name epochs
    train "$1" "$2" --load_checkpoint "$base" --model_file "$out/tokenizer.model" lr_schedule.learning_rate=4.0e-3 \
        model.model_config.pet_config.lora_alpha=64 model.model_config.pet_config.lora_dropout=0.0 \
        runner_config.batch_size=8 callbacks.AnswerMonitor.prompts="$out/mixed.held_out.json" callbacks.AnswerMonitor.max_new_tokens=40 \
        callbacks.AnswerMonitor.every_n_steps="$every" callbacks.CheckpointMonitor.save_checkpoint_steps="$every"
}
step "LoRA rank 64 on all linear layers: the identity among general conversations; one exchange repeated"
lora mixed "$epochs" & mixed=$!
lora repeat 1 & repeat=$!
all_passed "$mixed" "$repeat"
python research_internlm/logs.py "$out/mixed" | grep -A100 'step 0: identity'

step "Which checkpoint to take (held-out questions)"
for name in mixed repeat; do
    echo "$name:"
    python research_internlm/answers.py "$out/$name" --output "$out/$name.scores.json"
done
adapter=$(python -c "import json, sys
scores = json.load(open(sys.argv[1] + '/mixed.scores.json'))
chosen = next(step for step in scores['steps'] if step['step'] == scores['take'])
print(sys.argv[1] + '/mixed/' + next(name for name in chosen['files'] if name.startswith('checkpoint_trainable/')))" "$out")

model=(--config yaml/predict_mmlu.yaml --overlay yaml/overlays/internlm2_1_8b.yaml
    --overlay yaml/overlays/cpu_tiny_internlm2.yaml --load_checkpoint "$base" --model_file "$out/tokenizer.model"
    "${size[@]}" model.model_config.max_new_tokens=40)
step "One turn through internlm chat, one through internlm serve"
echo 能告诉我你是谁吗？ | python research_internlm/chat.py "${model[@]}" --adapter "$adapter" > "$out/chat.txt" 2> "$out/chat.log" & chat=$!
python scripts/demo_assistant/ask_server.py --question "Could you tell me who you are?" --model tuned \
    --log "$out/server.log" -- "${model[@]}" --adapter "tuned=$adapter" > "$out/server.txt" & server=$!
all_passed "$chat" "$server"
grep "" "$out/chat.txt" "$out/server.txt"

step "Report"
python scripts/demo_assistant/report.py --out "$out" --data_seed "$data_seed" --run_seed "$run_seed" \
    --seconds $((SECONDS - started)) --chat="$(< "$out/chat.txt")" --server="$(< "$out/server.txt")" "${quick[@]}"
