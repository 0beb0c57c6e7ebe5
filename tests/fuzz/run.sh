#!/usr/bin/env bash
# usage: run.sh SECONDS [ENTRY...]
# Builds the fuzzers with Clang in build/fuzz and runs each, or those named (json, gguf, ...), for SECONDS, beginning from its
# corpus and from what earlier runs found new. Inputs that break something are kept and named, and make it fail.
set -euo pipefail

die() {
  printf 'fuzz: %s\n' "$*" >&2
  exit 1
}

(($#)) && [[ $1 =~ ^[1-9][0-9]*$ ]] || die 'usage: run.sh SECONDS [ENTRY...], SECONDS being a whole number'
seconds="$1"
shift
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
build="$root/build/fuzz"
entries=("$@")
if ((${#entries[@]} == 0)); then
  mapfile -t entries < <(sed -n 's/^set(HALFQUAD_FUZZ_ENTRIES \(.*\))$/\1/p' "$here/CMakeLists.txt" | tr ' ' '\n')
  entries+=(hdf5_reader)
fi
for entry in "${entries[@]}"; do
  [[ -e "$here/fuzz_$entry.cpp" ]] || die "there is no fuzzer $entry"
done

cd "$root"
cmake --preset fuzz || die 'cmake could not configure the build; the reason is above'
cmake --build "$build" --parallel "$(nproc)" --target "${entries[@]/#/fuzz_}" || die 'the build failed; the reason is above'

# fuzz ENTRY: its log ends up in build/fuzz/ENTRY.log, new inputs in build/fuzz/inputs/ENTRY, findings in build/fuzz/findings
fuzz() {
  local inputs="$build/inputs/$1"
  mkdir -p "$inputs"
  "$build/tests/fuzz/fuzz_$1" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$build/findings/$1-" "$inputs" "$here/corpus/$1" >"$build/$1.log" 2>&1
}
mkdir -p "$build/findings"
printf 'Running %s fuzzers for %s s each, %s at a time\n' "${#entries[@]}" "$seconds" "$(nproc)"
declare -A entry_of=()
failed=()
finish_one() {
  local pid status=0
  wait -n -p pid || status=$?
  local entry="${entry_of[$pid]}"
  unset "entry_of[$pid]"
  local runs covered
  runs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$entry.log")"
  covered="$(grep -o 'cov: [0-9]*' "$build/$entry.log" | tail -1 || true)"
  printf '%-20s %12s inputs, %s edges, %s\n' "$entry" "${runs:-?}" "${covered#cov: }" \
    "$( ((status == 0)) && printf 'nothing found' || printf 'FAILED')"
  ((status == 0)) || failed+=("$entry")
}
for entry in "${entries[@]}"; do
  ((${#entry_of[@]} < $(nproc))) || finish_one
  fuzz "$entry" &
  entry_of[$!]="$entry"
done
while ((${#entry_of[@]})); do finish_one; done

for entry in "${failed[@]}"; do
  printf '\n%s: the end of %s\n' "$entry" "$build/$entry.log"
  tail -25 "$build/$entry.log"
done
((${#failed[@]} == 0)) || die "found something: ${failed[*]}; the inputs are in $build/findings"
