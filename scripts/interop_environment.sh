#!/usr/bin/env bash
# interop_environment.sh DIR: a virtual environment with the upstream libraries that tests/interop compares with.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$1
lists=(tests/interop/requirements.txt tests/interop/requirements_alone.txt tests/interop/requirements_apart.txt)
stamp="$dir/requirements.done"
if cat "${lists[@]}" | cmp -s - "$stamp"; then exit 0; fi
[ -x "$dir/bin/python" ] || python3 -m venv "$dir"
echo "installing the upstream libraries (several GB the first time) ..." >&2
install=("$dir/bin/pip" install --quiet --disable-pip-version-check --no-compile)
"${install[@]}" -r tests/interop/requirements.txt
"${install[@]}" --no-deps -r tests/interop/requirements_alone.txt
"${install[@]}" --no-deps --upgrade --target "$dir/apart" -r tests/interop/requirements_apart.txt
cat "${lists[@]}" > "$stamp"
