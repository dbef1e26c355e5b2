#!/usr/bin/env bash
# Fetches a Mesa whose lavapipe multiplies cooperative matrices (26.1) into .cache/matrices/, for `make test-matrices`.
# It comes out of Debian 13's backports with the libraries that it needs, libc among them, which are newer than Debian
# 12's: so Python runs there by that libc's own loader. Nothing is installed, and no root is needed.
set -euo pipefail
. "$(dirname "$0")/common.sh"

folder=.cache/matrices
[ ! -e "$folder/lvp_icd.json" ] || exit 0
# shellcheck disable=SC2054
packages=(mesa-vulkan-drivers/trixie-backports)

give_up() { say "Mesa with matrices: $1" >&2; exit 1; }

[ "$(uname -m)" = x86_64 ] || give_up "is fetched for x86-64 only"
command -v apt-get >/dev/null || give_up "comes out of Debian packages, and there is no apt here"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch"/{lists,cache/archives,root}/partial "$scratch/state"
touch "$scratch/status" # as if nothing was installed: then apt names all that the driver needs

# apt with sources, lists and a state of its own. Root would download as the user _apt, who may not write here.
own_apt() {
    (cd "$scratch" && apt-get -qq -y -o APT::Sandbox::User="$(id -un)" -o APT::Install-Recommends=false \
        -o Dir::Etc::SourceList="$scratch/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Dir::State="$scratch/state" -o Dir::State::Lists="$scratch/lists" -o Dir::State::Status="$scratch/status" \
        -o Dir::Cache="$scratch/cache" "$@") >>"$scratch/log" 2>&1
}

mirrors() {
    apt-get indextargets --format "\$(REPO_URI)" "Created-By: Packages" "Component: main" 2>/dev/null \
        | grep -v security | uniq
    echo http://deb.debian.org/debian
}

fetch() {
    local mirror suite
    for mirror in $(mirrors); do
        for suite in trixie trixie-backports; do
            echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg target=Packages] $mirror $suite main"
        done >"$scratch/sources.list"
        own_apt update --error-on=any && own_apt install --download-only -t trixie-backports "${packages[@]}" && return
    done
    return 1
}

say "Fetching a Mesa with cooperative matrices out of Debian 13's backports (about 100 MB)"
fetch || give_up "apt cannot download it: $(tail -n 1 "$scratch/log")"
for package in "$scratch"/cache/archives/*.deb; do
    dpkg -x "$package" "$scratch/root"
done

libraries="$scratch/root/usr/lib/x86_64-linux-gnu"
[ -e "$libraries/libvulkan_lvp.so" ] || give_up "the package does not hold libvulkan_lvp.so"
mkdir -p "$folder/lib"
cp -P "$libraries"/*.so* "$folder/lib/"
find "$folder/lib" \( -name 'libvulkan_*' -o -name 'libVkLayer_*' \) ! -name libvulkan_lvp.so -delete
# The package's manifest lets the linker find the library; here it lies beside its manifest.
sed 's|"library_path": ".*"|"library_path": "./lib/libvulkan_lvp.so"|' \
    "$scratch/root/usr/share/vulkan/icd.d/lvp_icd"*.json >"$scratch/manifest"
mv "$scratch/manifest" "$folder/lvp_icd.json"
