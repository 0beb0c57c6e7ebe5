#!/usr/bin/env bash
# usage: run.sh hqq|formats|serving|vllm HALFQUAD WORK_FOLDER TINY_MODEL [MPIRUN]
# Quantizes small models with HALFQUAD and loads the results with the published programs of the formats: hqq's with hqq and
# transformers 4, all others with transformers 5, mlx, llama.cpp and more; "serving" and "vllm" run the README's commands for
# engines. MPIRUN starts several ranks of HALFQUAD where outputs of several are loaded, too. The programs are kept in virtual environments in WORK_FOLDER (some 7 GiB each, fetched once), or in those that
# HALFQUAD_INTEROP_VENV (hqq), HALFQUAD_FORMATS_VENV (formats, serving) and HALFQUAD_VLLM_VENV name.
set -euo pipefail

die() {
  printf 'interop: %s\n' "$*" >&2
  exit 1
}

# install VENV REQUIREMENTS [OPTION...]: unless VENV was last given just these requirements
install() {
  local venv="$1" wanted="$here/$2"
  shift 2
  local done_file="$venv/halfquad-${wanted##*/}"
  if cmp -s "$wanted" "$done_file"; then
    return
  fi
  "$venv/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check "$@" -r "$wanted" ||
    die "the packages of ${wanted##*/} could not be installed (no network?)"
  cp "$wanted" "$done_file"
}

(($# == 4 || $# == 5)) || die 'usage: run.sh hqq|formats|serving|vllm HALFQUAD WORK_FOLDER TINY_MODEL [MPIRUN]'
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
what="$1" halfquad="$2" work="$3" tiny="$4"
mkdir -p "$work"
options=()
case "$what" in
  hqq)
    venv="${HALFQUAD_INTEROP_VENV:-$work/venv}" needs=requirements check=check_loaders.py
    [[ -z "${5:-}" ]] || options=(--mpirun "$5")
    ;;
  formats) venv="${HALFQUAD_FORMATS_VENV:-$work/venv-formats}" needs=requirements-formats check=check_formats.py ;;
  serving)
    venv="${HALFQUAD_FORMATS_VENV:-$work/venv-formats}" needs=requirements-formats check=check_serving.py
    options=(--engines llama-server,mlx_lm,transformers)
    ;;
  vllm)
    venv="${HALFQUAD_VLLM_VENV:-$work/venv-vllm}" needs=requirements-vllm check=check_serving.py
    options=(--engines vllm)
    ;;
  *) die "no programs are known for '$what'" ;;
esac

if [[ ! -x "$venv/bin/python" ]]; then
  python3 -m venv "$venv" || die 'no virtual environment; cluster/install-deps --with interop brings python3-venv'
fi
install "$venv" "$needs.txt"
[[ ! -e "$here/$needs-alone.txt" ]] || install "$venv" "$needs-alone.txt" --no-deps

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false
exec "$venv/bin/python" "$here/$check" --halfquad "$halfquad" --work "$work" --tiny "$tiny" "${options[@]}"
