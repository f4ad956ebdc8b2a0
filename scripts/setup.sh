#!/usr/bin/env bash
# Makes the environment that all commands run in: .venv, or VENV=DIR. It uses a supported MindSpore that is there
# already, else it installs one. The same command again changes nothing, or repairs what is broken.
#
#   bash scripts/setup.sh            # the toolkit and what its tests need; --help says more
#
# Any Python 3.8 can start it; research_internlm/installing decides which one the environment gets.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for python in ${PYTHON:+"$PYTHON"} "${VENV:-.venv}/bin/python" python3 python3.11 python3.12 python3.10 python \
    /usr/bin/python3 /opt/conda/bin/python /home/ma-user/anaconda3/bin/python; do
    if "$python" -S -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
        PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -S -m research_internlm.installing "$@"
    fi
done
echo "error: no Python 3.10 to 3.12 found; install one, or name it: PYTHON=/path/to/python3.11 bash scripts/setup.sh" >&2
exit 2
