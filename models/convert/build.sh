#!/bin/sh
# Makes the pack's networks with the pinned tools in a virtual environment under target/convert: see build.py.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=$here/../../target/convert/venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
exec "$venv/bin/python" "$here/build.py" "$@"
