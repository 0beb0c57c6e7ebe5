#!/usr/bin/env bash
# usage: run.sh HALFQUAD WORK_FOLDER TINY_MODEL
# Quantizes small models with HALFQUAD and loads the results with the published hqq and transformers, kept in a virtual
# environment in WORK_FOLDER (some 7 GiB, fetched once), or in the one that HALFQUAD_INTEROP_VENV names.
set -euo pipefail

die() {
  printf 'interop: %s\n' "$*" >&2
  exit 1
}

(($# == 3)) || die 'usage: run.sh HALFQUAD WORK_FOLDER TINY_MODEL'
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
halfquad="$1" work="$2" tiny="$3"
mkdir -p "$work"
venv="${HALFQUAD_INTEROP_VENV:-$work/venv}"

if [[ ! -x "$venv/bin/python" ]]; then
  python3 -m venv "$venv" || die 'no virtual environment; cluster/install-deps --with interop brings python3-venv'
fi
if ! cmp -s "$here/requirements.txt" "$venv/halfquad-requirements.txt"; then
  "$venv/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check -r "$here/requirements.txt" ||
    die "the packages of requirements.txt could not be installed (no network?)"
  cp "$here/requirements.txt" "$venv/halfquad-requirements.txt"
fi

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false
exec "$venv/bin/python" "$here/check_loaders.py" --halfquad "$halfquad" --work "$work" --tiny "$tiny"
