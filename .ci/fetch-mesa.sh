#!/usr/bin/env bash
# Fetches the Mesa that people have today into .cache/mesa/ for the tests, beside Debian 12's own of 2022: its
# lavapipe, and its RADV, which compiles for cards that are not there. Both come out of one package of Debian 12's
# backports and run on Debian 12's own libraries; nothing is installed, apt's own lists stay as they are, and no
# root is needed. From Debian 13 on the system's own driver is that Mesa. Where it cannot be had, the tests that
# need it skip; with CI=true on Debian that is a failure.
set -euo pipefail
. "$(dirname "$0")/common.sh"

folder=.cache/mesa
package=mesa-vulkan-drivers
drivers=(radeon lvp) # the last manifest to be written is what says that all is there
[ ! -e "$folder/lvp_icd.json" ] || exit 0

give_up() {
    if in_ci && [ "$(distribution)" = debian ]; then
        say "Mesa: $1" >&2
        exit 1
    fi
    say "Mesa of today: $1; the tests that need it will be skipped"
    exit 0
}

[ "$(distribution)" = debian ] || give_up "comes out of Debian 12's backports, and this is not Debian"
[ "$(debian_release)" -eq 12 ] || exit 0 # tests/drivers.py takes the system's own
command -v apt-get >/dev/null || give_up "comes out of a Debian package, and there is no apt here"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch"/{lists,cache}/partial "$scratch/mesa"

# apt with sources and lists of its own. Root would download as the user _apt, who may not write here.
own_apt() {
    (cd "$scratch" && apt-get -qq -o APT::Sandbox::User="$(id -un)" -o Dir::Etc::SourceList="$scratch/sources.list" \
        -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$scratch/lists" -o Dir::Cache="$scratch/cache" \
        "$@") >>"$scratch/log" 2>&1
}

# The mirrors from which this system takes Debian itself, then Debian's archive.
mirrors() {
    apt-get indextargets --format "\$(REPO_URI)" "Created-By: Packages" "Release: bookworm" "Component: main" \
        2>/dev/null | uniq
    echo http://deb.debian.org/debian
}

fetch() {
    local mirror
    for mirror in $(mirrors); do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg target=Packages]" \
            "$mirror bookworm-backports main" >"$scratch/sources.list"
        own_apt update --error-on=any && own_apt download "$package/bookworm-backports" && return
    done
    return 1
}

say "Fetching the Mesa of today out of Debian 12's backports (about 11 MB)"
fetch || give_up "apt cannot download $package from bookworm-backports: $(tail -n 1 "$scratch/log")"
dpkg -x "$scratch/$package"_*.deb "$scratch/mesa"

mkdir -p "$folder"
for driver in "${drivers[@]}"; do
    library=$(find "$scratch/mesa" -name "libvulkan_$driver.so" -print -quit)
    [ -n "$library" ] || give_up "this version of $package does not hold libvulkan_$driver.so"
    missing=$(ldd "$library" | grep 'not found' || true)
    [ -z "$missing" ] || give_up "libvulkan_$driver.so needs what is not here: $missing"
    cp "$library" "$folder/"
    # The package's manifest lets the linker find the library; here it lies beside its manifest.
    sed "s|\"library_path\": \".*\"|\"library_path\": \"./libvulkan_$driver.so\"|" \
        "$scratch/mesa/usr/share/vulkan/icd.d/${driver}_icd"*.json >"$scratch/manifest"
    mv "$scratch/manifest" "$folder/${driver}_icd.json"
done
