#!/usr/bin/env bash
# A folder with one folder of recordings a speaker, to a table of figures; an interrupted run goes on where it was.
#
#   recipes/folders/run.sh ROOT LANGUAGE [OUT]
#
# LANGUAGE is a code such as en, de or zh; README.md beside this file says more.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"

if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    echo "usage: $0 ROOT LANGUAGE [OUT]" >&2
    exit 2
fi
OUT=${3:-runs/folders}

prepare_corpus folders "$1" --language "$2" --valid-percent "${VALID_PERCENT:-10}"
train_and_evaluate valid
