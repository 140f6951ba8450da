#!/usr/bin/env bash
# test.sh                 installs what is missing, builds, runs every test (also those against the upstream libraries).
# test.sh --quick         the tests that need neither PyPI nor Docker.
# test.sh --preset asan   the same under another preset: asan, tsan, debug.
set -euo pipefail
cd "$(dirname "$0")"

quick=0
preset=release
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=1 ;;
    --preset) preset=$2; shift ;;
    *) echo "test.sh: unknown argument $1 (known: --quick, --preset NAME)" >&2; exit 2 ;;
  esac
  shift
done

scripts/install_dependencies.sh
interop=""
if [ $quick = 0 ] && [ "$preset" = release ]; then
  # For docker/base_image.sh, where no registry answers.
  if command -v docker >/dev/null; then scripts/install_dependencies.sh build debootstrap; fi
  # Gigabytes to fetch: while the compiler works.
  (scripts/interop_environment.sh .cache/interop && python3 scripts/fetch_models.py .cache/models) &
  fetching=$!
  trap 'kill "$fetching" 2>/dev/null || true' EXIT
  interop="$PWD/.cache/interop/bin/python"
fi

# QUANTD_REQUIRE_OPENCL: a test run without an OpenCL device must not pass by skipping.
export QUANTD_REQUIRE_OPENCL=1
# LLVM, in OpenCL drivers, gives threads signal stacks of its own, which AddressSanitizer would unmap at their end.
export ASAN_OPTIONS="use_sigaltstack=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
cmake --preset "$preset" -DQUANTD_BUILD_TESTS=ON -DQUANTD_INTEROP_PYTHON="$interop" >/dev/null
cmake --build --preset "$preset"
if [ -n "$interop" ]; then wait "$fetching"; fi
# Two at a time: importing the upstream libraries keeps one core busy for minutes. Tests of processes run alone.
if [ $quick = 1 ]; then
  ctest --test-dir "build/$preset" --output-on-failure -j2 -LE slow
else
  ctest --test-dir "build/$preset" --output-on-failure -j2
fi
