#!/usr/bin/env bash
# A model like the included one from a manifest; started again after an interruption, it continues.
#
#   recipes/base/run.sh MANIFEST OUT [SIZE] [OPTIONS]
#
# SIZE is short, cpu (default), gpu or gpus; README.md and `run.sh --help` say more.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/run.py" "$@"
