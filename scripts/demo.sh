#!/usr/bin/env bash
# The whole main job on a CPU with a tiny InternLM, through the same commands and yaml as on 4 NPUs:
# sample data, tokenizer, csv to MindRecord, a base model pre-trained for real, LoRA by msrun with two
# workers, MMLU accuracy and SQuAD F1/EM before and after, loss curves and a report.
#
#   bash scripts/demo.sh [--out DIR] [--seed N] [--quick]
#
# --seed is that of the data and of both trainings. --quick trains a few steps only, to see that every command
# works; it then claims nothing about learning.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=demo_output
data_seed=42
run_seed=0
base_epochs=7
lora_epochs=8
orderings=12
quick=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --out) out=$2; shift 2 ;;
        --seed) data_seed=$2; run_seed=$2; shift 2 ;;
        --quick) base_epochs=1; lora_epochs=1; orderings=2; quick=(--quick); shift ;;
        *) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
    esac
done
source scripts/demo/stages.sh

step "Sample data in MMLU, CMMLU and SQuAD format, and a tokenizer of InternLM's layout"
python scripts/demo/sample_data.py --output_dir "$out/data" --seed "$data_seed" "${quick[@]}"
python scripts/demo/tiny_tokenizer.py --corpus "$out/data/base_corpus.json" --output "$out/tokenizer.model"
vocab=$(vocabulary_size "$out/tokenizer.model")

# Twelve orderings where the recipe has six: in as many steps so small a model learns more from them.
step "csv -> json -> held-out questions set aside -> $orderings orderings of the rest"
python preprocess/mmlu_cmmlu_csv2json.py --mmlu_dir "$out/data/mmlu" --cmmlu_dir "$out/data/cmmlu" --output "$out/alpaca.json"
python preprocess/data_preprocess.py --input "$out/alpaca.json" --output_dir "$out/held_out" --orderings 1 \
    --split held_out --valid_per_category 1 --test_per_category 8 --seed "$data_seed"
python preprocess/data_preprocess.py --input "$out/held_out/train_alpaca_format.json" --output_dir "$out/reordered" \
    --orderings "$orderings" --split sixth_ordering --valid_per_category 4 --test_per_category 16 --seed "$data_seed"

step "json -> MindRecord, with passages to read among the exam questions: they keep up what SQuAD measures"
cp "$out/data/reading.json" "$out/reordered/train_reading.json"
# Just long enough for every text; a look-up is longer than an exam question by the question before it.
base_length=47
length=44
convert() {
    python preprocess/alpaca_data_preprocess_v1.py --mindrecord_schema internlm_alpaca --input_glob "$1" \
        --output_file "$2" --model_file "$out/tokenizer.model" --seq_length "$3" "${@:4}"
}
logged "$out/log/base_data.log" convert "$out/data/base_corpus.json" "$out/base.mindrecord" "$base_length" & base_data=$!
convert "$out/reordered/train_*.json" "$out/train.mindrecord" "$length" --show 1
convert "$out/reordered/valid_alpaca_format.json" "$out/valid.mindrecord" $((length - 1))
all_passed "$base_data"
cat "$out/log/base_data.log"

recipe=(--config yaml/lora_finetune.yaml --overlay yaml/overlays/cpu_tiny.yaml)
# Two layers with eight heads learn which letter stands for an option in two thirds of the steps that four
# layers with four heads take, at half the cost of a step, and rotary angles for short rows (theta) save some
# more; betas are those of pre-training (Touvron et al. 2023).
size=("model.model_config.vocab_size=$vocab" model.model_config.num_layers=2 model.model_config.num_heads=8
      model.model_config.theta=30.0)
training=("seed=$run_seed" "${size[@]}")

step "Base model: all parameters trained on facts, passages and the format ($base_epochs epochs)"
logged "$out/base/run.log" python research_internlm/run_internlm.py "${recipe[@]}" --train_dataset "$out/base.mindrecord" \
    --output_dir "$out/base" --use_parallel False "${training[@]}" do_eval=False model.model_config.pet_config=null \
    model.model_config.seq_length="$base_length" model.model_config.init_method_std=0.05 model.model_config.head_init_std=0.05 \
    runner_config.epochs="$base_epochs" runner_config.batch_size=32 lr_schedule.learning_rate=2.0e-3 'optimizer.betas=[0.9, 0.95]' \
    callbacks.CheckpointMonitor.prefix=base callbacks.CheckpointMonitor.save_checkpoint_steps=1000000 \
    callbacks.CheckpointMonitor.save_trainable_params=False
base=$(ls "$out"/base/checkpoint/rank_0/*.ckpt)

tests=(reordered held_out squad)
evaluate() { # name checkpoint test
    local task=(mmlu --config yaml/predict_mmlu.yaml --test_file "$out/$3/test_alpaca_format.json")
    [[ $3 != squad ]] || task=(squad --config yaml/predict_eval_squad.yaml --squad_file "$out/data/squad.json")
    logged "$out/log/$1_$3.log" python research_internlm/evaluate.py "${task[@]}" --output "$out/$1_$3.json" \
        --overlay yaml/overlays/cpu_tiny.yaml --load_checkpoint "$2" --model_file "$out/tokenizer.model" \
        "${size[@]}" runner_config.batch_size=32 model.model_config.max_new_tokens=12
    grep -E '^(MMLU|SQuAD)' "$out/log/$1_$3.log" | sed "s/^/$1: /"
}

step "LoRA rank 16 on wq, wk, wv, wo by msrun with 2 workers ($lora_epochs epochs); beside it, the base model's scores"
# Starting and ending a job of several workers leaves cores idle; the base's evaluations take what is left.
{
    renice -n 19 "$BASHPID" > /dev/null
    for test in "${tests[@]}"; do evaluate base "$base" "$test"; done
} & before=$!
bash scripts/train_msrun.sh yaml/lora_finetune.yaml 2 -- "${recipe[@]:2}" --train_dataset "$out/train.mindrecord" \
    --eval_dataset "$out/valid.mindrecord" --load_checkpoint "$base" --output_dir "$out/lora" "${training[@]}" \
    model.model_config.seq_length="$length" runner_config.epochs="$lora_epochs" runner_config.batch_size=8 \
    lr_schedule.learning_rate=2.0e-3 eval_step_interval=164 callbacks.CheckpointMonitor.save_checkpoint_steps=164 > /dev/null
tuned=$(ls -t "$out"/lora/checkpoint/rank_0/*.ckpt | head -n 1)

step "MMLU accuracy and SQuAD F1/EM after LoRA"
evaluations=("$before")
for test in "${tests[@]}"; do evaluate tuned "$tuned" "$test" & evaluations+=($!); done
all_passed "${evaluations[@]}"

step "Report"
python scripts/demo/report.py --out "$out" --data_seed "$data_seed" --run_seed "$run_seed" --seconds $((SECONDS - started)) "${quick[@]}"
