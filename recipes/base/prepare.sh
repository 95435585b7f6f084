#!/usr/bin/env bash
# The manifest that pretrained/base was trained on, from a table of real and a table of synthetic speech.
#
#   recipes/base/prepare.sh REAL.tsv SYNTH.tsv [MANIFEST]
#
# README.md beside this file says what the tables hold. Needs vconv and the program espeak-ng on the PATH.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 REAL.tsv SYNTH.tsv [MANIFEST]" >&2
    exit 2
fi

# In the synthetic table `sentence` numbers the aligned groups, and `text` is what is said in them.
vconv prepare "$1" "$2" -o "${3:-corpus.tsv}" --layout tsv \
    --column group=sentence --column transcript=text \
    --phonemize --valid-percent 2
