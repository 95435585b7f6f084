#!/usr/bin/env bash
# A folder with one folder of recordings a speaker, to a model and a table of figures; an interrupted run continues where it was.
#
#   recipes/folders/run.sh ROOT LANGUAGE [OUT [SIZE [OPTIONS]]]
#
# LANGUAGE is a code such as en, de or zh. SIZE and OPTIONS are those of recipes/base/run.sh.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"

if [ $# -lt 2 ]; then
    echo "usage: $0 ROOT LANGUAGE [OUT [SIZE [OPTIONS]]]" >&2
    exit 2
fi
OUT=${3:-runs/folders}

prepare_corpus folders "$1" --language "$2" --valid-percent "${VALID_PERCENT:-10}"
make_model "${@:4}"
