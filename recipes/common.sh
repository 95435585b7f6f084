# What the recipes' run.sh share; sourced, not run. The caller sets OUT, the folder for everything that is made.
#
# Set by the user, all optional:
#   PYTHON  interpreter with vconv and its train extra (python3)
#   JOBS    processes that decode the corpus (one a core)
set -euo pipefail

PYTHON=${PYTHON:-python3}
recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# prepare_corpus ARGUMENTS...: vconv prepare into OUT/corpus.tsv, with phones where espeak-ng can make them. What the very
# same command has made before stays.
prepare_corpus() {
    local options=(-o "$OUT/corpus.tsv" ${JOBS:+--jobs "$JOBS"}) mark="$OUT/prepare" command
    if command -v espeak-ng > /dev/null; then
        options+=(--phonemize)
    else
        echo "note: no phones, which training would use: the program espeak-ng is not installed"
    fi
    printf -v command '%q ' "$@" "${options[@]}"
    if [ -f "$mark" ] && [ "$(cat "$mark")" = "$command" ]; then
        echo "== prepare: complete"
        return
    fi
    echo "== prepare"
    mkdir -p "$OUT"
    rm -f "$mark"
    "$PYTHON" -m vconv prepare "$@" "${options[@]}"
    printf '%s' "$command" > "$mark.new"
    mv "$mark.new" "$mark"
}

# The judges that are not installed, and how to install them, before the hours of training rather than after.
say_missing_judges() {
    "$PYTHON" - << 'PYTHON'
from vconv.evaluation.judges import JUDGES, Settings

for problem in filter(None, (judge.missing(Settings()) for judge in JUDGES.values())):
    print(f"note: {problem}")
PYTHON
}

# make_model [SIZE [OPTIONS...]]: everything after prepare_corpus, by the stages of recipes/base.
make_model() {
    say_missing_judges
    "$PYTHON" "$recipes/base/run.py" "$OUT/corpus.tsv" "$OUT" "$@"
}
