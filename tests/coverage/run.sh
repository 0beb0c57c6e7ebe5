#!/usr/bin/env bash
# usage: run.sh [CTEST-ARGUMENTS...]
# Builds the suite in build/coverage so that it counts which lines run, runs it, and prints the part of each room's lines
# that ran. Line by line: build/coverage/html/index.html.
set -euo pipefail

die() {
  printf 'coverage: %s\n' "$*" >&2
  exit 1
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
build="$root/build/coverage"
cd "$root"
cmake --preset coverage || die 'cmake could not configure the build; the reason is above'
cmake --build "$build" --parallel "$(nproc)" || die 'the build failed; the reason is above'
find "$build" -name '*.gcda' -delete
# What checks files and builds of its own gains nothing from being counted.
status=0
(cd "$build" && ctest --parallel "$(nproc)" --output-on-failure --no-tests=error \
  -LE '^(interop|slow|slurm|packages|asan|tsan|lint|install|isolated)$' "$@") || status=$?

mkdir -p "$build/html"
# Lines that no test can reach on this machine count all the same: they are what the number is about.
gcovr --root "$root" --object-directory "$build" --exclude-throw-branches --gcov-ignore-parse-errors \
  --filter '(runtime|kernels|io|sharding|launcher)/' --exclude '.*/cuda/.*' \
  --json-summary "$build/summary.json" --html-details "$build/html/index.html" "$build" >"$build/gcovr.log" 2>&1 ||
  die "gcovr failed: $(tail -1 "$build/gcovr.log")"
python3 -B "$here/rooms.py" "$build/summary.json"
printf 'Line by line: %s\n' "$build/html/index.html"
((status == 0)) || die 'tests failed; the numbers above are of what ran'
