#!/usr/bin/env bash
# run.sh [SECONDS [TARGET...]]: fuzzes every target (or those named) for some time each, after building preset fuzz.
# Limits catch what a hostile size would allocate and what takes too long. Exits 1 when anything was found.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-120}
shift || true
bin=build/fuzz/bin
work=build/fuzz/fuzzing
"$bin/make_seeds" "$work/seeds" tests/data
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cd "$work/seeds" && ls)

failed=()
for target in "${targets[@]}"; do
  mkdir -p "$work/corpus/$target" "$work/found/$target"
  echo "== $target, $seconds s"
  "$bin/$target" -max_total_time="$seconds" -max_len=32768 -rss_limit_mb=2048 -malloc_limit_mb=256 -timeout=10 \
    -use_value_profile=1 -artifact_prefix="$work/found/$target/" \
    "$work/corpus/$target" "$work/seeds/$target" >"$work/$target.log" 2>&1 || failed+=("$target")
  grep -E "INITED|DONE|SUMMARY|ERROR" "$work/$target.log" || true
done
[ ${#failed[@]} = 0 ] || { echo "found something: ${failed[*]} (logs and inputs in $work)" >&2; exit 1; }
