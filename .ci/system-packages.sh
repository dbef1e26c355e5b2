#!/usr/bin/env bash
# system-packages.sh demo|test: what pip cannot install, through apt where that is allowed.
#   demo  the Vulkan loader and a driver, Python's venv module
#   test  the same, and what the tests run on: Mesa's lavapipe, the Khronos validation layer, iproute2
#         for several hosts, Chromium for the server's page on Debian (Ubuntu's package is a snap)
# Where apt is not there or not allowed, one line says what to install. The demo then runs without a GPU
# and the tests that need a driver skip; with CI=true a missing driver is a failure.
set -euo pipefail
. "$(dirname "$0")/common.sh"

purpose=${1:?demo or test}
python=${PYTHON:-python3}
have_venv || require_python "$python"

wanted=()
have_vulkan_loader || wanted+=(libvulkan1)
if [ "$purpose" = test ]; then
    have_lavapipe || wanted+=(mesa-vulkan-drivers)
    have_validation_layer || wanted+=(vulkan-validationlayers)
    have_iproute || wanted+=(iproute2)
    have_chromium || [ "$(distribution)" != debian ] || wanted+=(chromium)
else
    have_vulkan_driver || wanted+=(mesa-vulkan-drivers)
fi

# Debian and Ubuntu take venv and ensurepip out of Python into a package of their own.
venv_package=''
if ! have_venv && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    venv_package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    wanted+=("$venv_package")
fi

[ "${#wanted[@]}" -gt 0 ] || exit 0

if may_install; then
    say "Installing ${wanted[*]}"
    apt_install "${wanted[@]}" && exit 0
fi

if command -v apt-get >/dev/null; then
    say "Please install what is missing: sudo apt-get install ${wanted[*]}"
else
    say "Please install, under the names your system has for them: ${wanted[*]}"
fi
# Without venv nothing can go on; without a driver the demo can, and outside CI the tests too.
if [ -n "$venv_package" ] || { [ "$purpose" = test ] && in_ci; }; then
    exit 1
fi
