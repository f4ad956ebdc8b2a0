#!/usr/bin/env bash
# Says what this machine has, what is wrong with it and what to do: bash scripts/doctor.sh (--help says more)
# Works before set-up too, with the system's Python.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh"
python=$(command -v python || command -v python3 || true)
if [[ -z $python ]] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "error: the doctor needs Python 3.10 to 3.12, found ${python:-none}: name one on PATH, or run" \
         "bash scripts/setup.sh" >&2
    exit 2
fi
# Not installed yet: the package is the one beside this script.
"$python" -c 'import sys, importlib.util as u; sys.exit(u.find_spec("research_internlm") is None)' ||
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$root/research_internlm/doctor.py" "$@"
