#!/usr/bin/env bash
# LibriTTS or LibriSpeech from its subsets to a table of figures; an interrupted run goes on where it was.
#
#   recipes/libritts/run.sh ROOT [OUT]
#
# ROOT holds subsets such as train-clean-100, dev-clean and test-clean; README.md beside this file says more.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 ROOT [OUT]" >&2
    exit 2
fi
OUT=${2:-runs/libritts}

prepare_corpus libritts "$1"
train_and_evaluate "${SPLIT:-test}"
