# Puts the environment that setup.sh made (.venv, or VENV=DIR) first on PATH. The other scripts source it.
if venv=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && cd "${VENV:-.venv}/bin" 2>/dev/null && pwd); then
    export PATH="$venv:$PATH"
fi
