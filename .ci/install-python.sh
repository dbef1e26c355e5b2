#!/usr/bin/env bash
# install-python.sh run|dev: makes .venv where there is none and installs tplaunch in it, editable.
#   run  what a user needs
#   dev  the same, the tools of `make test`, and the Slang compiler
# With PACKAGES=oldest the packages are the oldest that pyproject.toml allows instead of the newest.
set -euo pipefail
. "$(dirname "$0")/common.sh"

purpose=${1:?run or dev}
python=${PYTHON:-python3}
# The compiler whose output is committed in shaders/spv/. --no-deps: the wheel's metadata asks for torch.
slang='slangtorch==1.3.22'

if ! have_venv; then
    require_python "$python"
    say "Making the virtual environment .venv"
    "$python" -m venv --clear .venv
fi

pip_install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input "$@"
}

# Installs this repository, with the extras named, editable.
install_tplaunch() {
    if [ "${PACKAGES:-newest}" = oldest ]; then
        say "With the oldest packages that pyproject.toml allows"
        pip_install uv
        .venv/bin/uv pip install --quiet --python .venv/bin/python --resolution lowest-direct --editable ".$1"
    else
        pip_install --editable ".$1"
    fi
}

if [ "$purpose" = dev ]; then
    say "Installing tplaunch and its development tools into .venv"
    install_tplaunch '[dev]'
    pip_install --no-deps "$slang" \
        || say "No Slang compiler for this machine ($(uname -m)): shaders cannot be rebuilt here"
else
    say "Installing tplaunch into .venv"
    install_tplaunch ''
fi
