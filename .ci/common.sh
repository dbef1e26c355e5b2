# What the scripts here share. Sourced, not run.
# shellcheck shell=bash

# All of them work in the root of the repository.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

say() { printf '== %s\n' "$*"; }

in_ci() { [ "${CI:-}" = true ]; }

# The part of os-release that says which distribution this is: debian, ubuntu, fedora, ...
distribution() {
    # shellcheck source=/dev/null
    (. /etc/os-release 2>/dev/null && printf '%s' "${ID:-unknown}") || printf 'unknown'
}

# The number of the Debian release; 99 for testing and unstable, which have none.
debian_release() {
    # shellcheck source=/dev/null
    (. /etc/os-release 2>/dev/null && printf '%s' "${VERSION_ID:-99}") || printf '99'
}

# Is this a Python that tplaunch runs on?
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

# A .venv that is whole: one left by an interrupted `python -m venv` has no pip.
have_venv() { is_new_enough .venv/bin/python && .venv/bin/python -c 'import pip' 2>/dev/null; }

# Ends the script where there is no Python to make a virtual environment with.
require_python() {
    is_new_enough "$1" && return
    say "tplaunch needs Python 3.10 or newer, and '$1' is not; name another, as in: make PYTHON=python3.12 demo" >&2
    exit 1
}

# Runs a command as root, or fails where that would need a password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }
}

have_package_lists() { compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; }

quiet_apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 "$@"
}

# Installs the packages named. Package lists are fetched where there are none, and once more where they
# turn out to be too old. What apt says is shown only when it fails.
apt_install() {
    local log
    log=$(mktemp)
    if { have_package_lists || quiet_apt update; } >"$log" 2>&1 \
        && quiet_apt install --no-install-recommends "$@" >>"$log" 2>&1; then
        rm -f "$log"
    elif { quiet_apt update && quiet_apt install --no-install-recommends "$@"; } >>"$log" 2>&1; then
        rm -f "$log"
    else
        tail -n 20 "$log" >&2
        rm -f "$log"
        return 1
    fi
}

have_vulkan_loader() {
    # Not grep -q: it stops reading, and under pipefail ldconfig's broken pipe would count as "not there".
    PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | grep 'libvulkan\.so\.1' >/dev/null
}

# Folders in which the Vulkan loader looks for drivers and layers, as tests/drivers.py does.
vulkan_files() {
    compgen -G "/usr/share/vulkan/$1" || compgen -G "/usr/local/share/vulkan/$1" \
        || compgen -G "/etc/vulkan/$1" || compgen -G "${XDG_DATA_HOME:-$HOME/.local/share}/vulkan/$1"
}

have_vulkan_driver() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] || vulkan_files 'icd.d/*.json' >/dev/null
}

have_lavapipe() { vulkan_files 'icd.d/lvp_icd*.json' >/dev/null; }

have_validation_layer() { vulkan_files 'explicit_layer.d/VkLayer_khronos_validation.json' >/dev/null; }

# The tests of several hosts make network namespaces with it.
have_iproute() {
    local PATH=$PATH:/sbin:/usr/sbin
    command -v ip && command -v tc
} >/dev/null

# The browsers that tests/browser.py looks for.
have_chromium() {
    command -v chromium || command -v chromium-browser || command -v google-chrome \
        || command -v google-chrome-stable
} >/dev/null
