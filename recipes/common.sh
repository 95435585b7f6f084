# What the recipes' run.sh share; sourced, not run. The caller sets OUT, the folder for everything that is made.
#
# Set by the user, all optional:
#   PYTHON          interpreter with vconv and its train extra (python3)
#   LAUNCH          what starts training in place of PYTHON, as "accelerate launch"
#   CONVERSION_SET  settings over the recipe's config, as "optimizer.steps=50000 batch.items=32"
#   VOCODER_SET     the same for both vocoder stages
#   PAIRS           conversions to evaluate, at most (100)
#   JOBS            processes that decode the corpus and that judge (one a core)
set -euo pipefail

PYTHON=${PYTHON:-python3}
recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ran=""  # a stage has run: those after it run again

# stage NAME COMMAND...: run it, unless the very same command was completed before and nothing earlier has run now.
stage() {
    local mark="$OUT/stages/$1" name=$1 command
    shift
    printf -v command '%q ' "$@"
    if [ -z "$ran" ] && [ -f "$mark" ] && [ "$(cat "$mark")" = "$command" ]; then
        echo "== $name: complete"
        return
    fi
    echo "== $name: $command"
    ran=1
    mkdir -p "$OUT/stages"
    rm -f "$mark"
    "$@"
    printf '%s' "$command" > "$mark.new"
    mv "$mark.new" "$mark"
}

vconv() {
    "$PYTHON" -m vconv "$@"
}

# train CONFIG SETTINGS KEY=VALUE...: a run that was interrupted goes on.
train() {
    local config=$1 settings arguments=()
    read -ra settings <<< "$2"
    shift 2
    local setting
    for setting in "$@" ${settings[@]+"${settings[@]}"}; do
        arguments+=(--set "$setting")
    done
    ${LAUNCH:-"$PYTHON"} -m vconv train "$config" --resume "${arguments[@]}"
}

# The judges that are not installed, and how to install them, before the hours of training rather than after.
say_missing_judges() {
    "$PYTHON" - << 'PYTHON'
from vconv.evaluation.judges import JUDGES, Settings

for problem in filter(None, (judge.missing(Settings()) for judge in JUDGES.values())):
    print(f"note: {problem}")
PYTHON
}

# prepare_corpus ARGUMENTS...: vconv prepare into OUT/corpus.tsv, with phones where espeak-ng can make them.
prepare_corpus() {
    local options=(-o "$OUT/corpus.tsv" ${JOBS:+--jobs "$JOBS"})
    mkdir -p "$OUT"
    if command -v espeak-ng > /dev/null; then
        options+=(--phonemize)
    else
        echo "note: no phones, which training would use: the program espeak-ng is not installed"
    fi
    stage prepare vconv prepare "$@" "${options[@]}"
}

# config NAME: the recipe's own file of this name, else the one that pretrained/base was trained with.
config() {
    [ -f "$here/$1" ] && echo "$here/$1" || echo "$recipes/base/$1"
}

# train_and_evaluate SPLIT: everything after prepare_corpus, judged between speakers of that split.
train_and_evaluate() {
    local corpus="corpus.manifest=$OUT/corpus.tsv" conversion="$OUT/conversion" vocoder="$OUT/vocoder"
    local fine="$OUT/vocoder_predicted" checkpoint=checkpoint.safetensors
    say_missing_judges
    stage pairs "$PYTHON" "$recipes/make_pairs.py" "$OUT/corpus.tsv" "$OUT/pairs.csv" --split "$1" \
        --count "${PAIRS:-100}"
    stage conversion train "$here/config.yaml" "${CONVERSION_SET:-}" "$corpus" "output=$conversion"
    stage vocoder train "$(config vocoder.yaml)" "${VOCODER_SET:-}" "$corpus" "output=$vocoder"
    stage vocoder_predicted train "$(config vocoder_predicted.yaml)" "${VOCODER_SET:-}" "$corpus" "output=$fine" \
        "conversion=$conversion/$checkpoint" "start_from=$vocoder/$checkpoint"
    stage export vconv export "$conversion/$checkpoint" "$fine/$checkpoint" -o "$OUT/model" --overwrite
    stage evaluate vconv evaluate "$OUT/pairs.csv" --model "$OUT/model" -o "$OUT/evaluation" ${JOBS:+--jobs "$JOBS"}
    echo "== done: the model is $OUT/model, the figures are in $OUT/evaluation/report.html"
}
