#!/usr/bin/env bash
# LibriTTS or LibriSpeech from its subsets to a model and a table of figures; an interrupted run continues where it was.
#
#   recipes/libritts/run.sh ROOT [OUT [SIZE [OPTIONS]]]
#
# ROOT holds subsets such as train-clean-100, dev-clean and test-clean. SIZE and OPTIONS are those of recipes/base/run.sh.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"

if [ $# -lt 1 ]; then
    echo "usage: $0 ROOT [OUT [SIZE [OPTIONS]]]" >&2
    exit 2
fi
OUT=${2:-runs/libritts}

prepare_corpus libritts "$1"
make_model "${@:3}"
