#!/usr/bin/env bash
# Prepares a machine without a network for `pytest -m gpu`, from wheels.
#
#   tests/gpu/prepare.sh download WHEELS        where there is a network, with the Python version and platform of the other
#   tests/gpu/prepare.sh install WHEELS VENV    on the bare machine, in a copy of this repository
set -euo pipefail
usage() { sed -n '4,5s/^#  *//p' "$0" >&2; exit 2; }

[ $# -ge 2 ] || usage
wheels=$(realpath -m "$2")
case $1 in
download)
    cd "$(dirname "$0")/../.."
    # wheel, not download: what is on the index as source only, such as nnunetv2, is built here.
    python3 -m pip wheel --wheel-dir "$wheels" ".[test]" "setuptools>=77"
    ;;
install)
    [ $# -eq 3 ] || usage
    environment=$(realpath -m "$3")
    cd "$(dirname "$0")/../.."
    python3 -m venv "$environment"
    install=("$environment/bin/python" -m pip install --no-index --find-links "$wheels")
    "${install[@]}" "setuptools>=77"
    "${install[@]}" --no-build-isolation -e ".[test]"
    echo "Now: $environment/bin/python -m pytest -m gpu tests/gpu"
    ;;
*) usage ;;
esac
