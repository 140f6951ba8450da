#!/usr/bin/env bash
# interop_environment.sh DIR: a virtual environment with the upstream libraries that tests/interop compares with.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$1
stamp="$dir/requirements.done"
if cmp -s tests/interop/requirements.txt "$stamp"; then exit 0; fi
[ -x "$dir/bin/python" ] || python3 -m venv "$dir"
echo "installing the upstream libraries (several GB the first time) ..." >&2
"$dir/bin/pip" install --quiet --disable-pip-version-check --no-compile -r tests/interop/requirements.txt
cp tests/interop/requirements.txt "$stamp"
