#!/usr/bin/env bash
# VCTK from its archive to a model and a table of figures; an interrupted run continues where it was.
#
#   recipes/vctk/run.sh ROOT [OUT [SIZE [OPTIONS]]]
#
# ROOT holds wav48_silence_trimmed/ (version 0.92) or wav48/ (0.80). SIZE and OPTIONS are those of recipes/base/run.sh.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"

if [ $# -lt 1 ]; then
    echo "usage: $0 ROOT [OUT [SIZE [OPTIONS]]]" >&2
    exit 2
fi
OUT=${2:-runs/vctk}

prepare_corpus vctk "$1" --mic "${MIC:-mic1}" --held-out "$here/held_out.tsv"
make_model "${@:3}"
