#!/usr/bin/env bash
# run.sh [PROMPT]   installs, builds, fetches two small models, quantizes, loads, generates, embeds; prints a table.
# run.sh serve      the same up to the models, then quantd in the foreground on 127.0.0.1:8001.
set -euo pipefail
cd "$(dirname "$0")"

scripts/install_dependencies.sh
cmake --preset release >build-configure.log 2>&1 || { cat build-configure.log; exit 1; }
rm -f build-configure.log
echo "building (the first time takes some minutes) ..." >&2
cmake --build --preset release --target quantd quantctl | tail -n 1 >&2
python3 scripts/fetch_models.py models-root

if [ "${1:-}" = serve ]; then
  shift
  exec build/release/bin/quantd --model-root models-root "$@"
fi
exec python3 scripts/tour.py --bin build/release/bin --root models-root "$@"
