# What the demos share; they source it after their options are read, with $out set.
if [[ -e $out ]]; then
    echo "error: $out exists already; remove it or name another folder: bash scripts/$(basename "$0") --out DIR" >&2
    exit 2
fi

bash scripts/setup.sh
source scripts/environment.sh
export GLOG_v=3
started=$SECONDS
step() { printf '\n[%3d s] %s\n' $((SECONDS - started)) "$*"; }
# Long logs go to a file; on failure its end is what the user needs.
logged() {
    local log=$1
    shift
    mkdir -p "$(dirname "$log")"
    "$@" > "$log" 2>&1 || { local status=$?; tail -n 20 "$log" >&2; echo "failed: $* (whole log: $log)" >&2; exit "$status"; }
}
# Ends the demo where one of these processes has failed, after all have ended.
all_passed() {
    local process failed=0
    for process in "$@"; do
        wait "$process" || failed=$?
    done
    [[ $failed == 0 ]] || exit "$failed"
}
vocabulary_size() { python -c "import sentencepiece, sys; print(sentencepiece.SentencePieceProcessor(model_file=sys.argv[1]).vocab_size())" "$1"; }
