#!/usr/bin/env bash
# Checks this checkout with the tools of one Python environment; scripts/test makes one that has them all.
#
#   scripts/check.sh [PYTEST ARGUMENT...]
#
#   PYTHON   the environment's interpreter (default: python3)
#   CHECKS   which checks to run (default: "format lint types spelling tests"; by name only: "guard", that no job
#            costs much more than it did)
#
# All checks run, also after one has failed; the last line says which did.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
shopt -s nullglob

python=${PYTHON:-python3}
checks=${CHECKS:-format lint types spelling tests}
failed=""

check() { # check NAME COMMAND...
    case " $checks " in *" $1 "*) ;; *) return ;; esac
    local name=$1
    shift
    printf '== %s\n' "$name"
    "$@" || failed+=" $name"
}

check format "$python" -m ruff format --check --diff .
check lint "$python" -m ruff check .
check types "$python" -m mypy
# What is ours, by name: a result file that lies in the folder is nobody's prose. (`doc[s]`: if there is one.)
check spelling "$python" -m codespell_lib mpengine tests bench scripts doc[s] *.md pyproject.toml setup.cfg
check tests "$python" -m pytest "$@"
check guard "$python" -m bench guard

if [ -n "$failed" ]; then
    printf 'failed:%s\n' "$failed" >&2
    exit 1
fi
