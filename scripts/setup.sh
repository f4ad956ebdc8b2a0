#!/usr/bin/env bash
# Makes .venv with the pinned MindSpore / MindFormers pair and this package (editable). Safe to run again:
# nothing is installed twice while setup.cfg stays the same.
#
#   bash scripts/setup.sh            # the toolkit and what its tests need
#   PYTHON=python3.10 bash scripts/setup.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.11 python3.12 python3.10; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.10-3.12 found (looked at: ${PYTHON:-} python3 python3.11 python3.12 python3.10);" \
         "install one, or name it: PYTHON=/path/to/python3.11 bash scripts/setup.sh" >&2
    exit 2
}

stamp=.venv/.installed-from
wanted=$(sha256sum setup.cfg pyproject.toml | sha256sum | cut -d' ' -f1)
if [[ -f $stamp && $(cat "$stamp") == "$wanted" ]] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

if ! .venv/bin/python -c '' 2>/dev/null; then
    python=$(find_python)
    rm -rf .venv
    "$python" -m venv .venv
fi
echo "Installing MindSpore, MindFormers and the toolkit into .venv (about 3 GB, a few minutes the first time) ..."
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
echo "$wanted" > "$stamp"
.venv/bin/python -c 'from importlib.metadata import version as v; import sys
print("Ready: Python", sys.version.split()[0], "MindSpore", v("mindspore"), "MindFormers", v("mindformers"))'
