#!/usr/bin/env bash
# Fetches SwiftShader, Google's Vulkan driver for CPUs, into .cache/swiftshader/ for the tests: a second
# "vendor" beside Mesa's lavapipe, with other subgroup sizes, limits and features. Debian ships it in
# chromium-common; nothing is installed, and no root is needed. Where it cannot be had, the tests that
# need it skip; with CI=true on Debian that is a failure. The same package holds a Khronos validation layer
# that is years newer than the system's: it goes to .cache/validation/.
set -euo pipefail
. "$(dirname "$0")/common.sh"

folder=.cache/swiftshader
manifest=vk_swiftshader_icd.json
layer_folder=.cache/validation
layer_manifest=VkLayer_khronos_validation.json
{ [ ! -e "$folder/$manifest" ] || [ ! -e "$layer_folder/$layer_manifest" ]; } || exit 0

give_up() {
    if in_ci && [ "$(distribution)" = debian ]; then
        say "SwiftShader: $1" >&2
        exit 1
    fi
    say "SwiftShader: $1; the tests that need it will be skipped"
    exit 0
}

if [ "$(distribution)" = ubuntu ]; then
    give_up "not available on Ubuntu, where Chromium is a snap and no package holds it"
fi
command -v apt-get >/dev/null || give_up "comes out of a Debian package, and there is no apt here"
have_package_lists || { may_install && quiet_apt update >/dev/null 2>&1; } \
    || give_up "apt has no package lists, and only root may fetch them (apt-get update)"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Root would download as the user _apt, who may not write here, and warn about it.
download() {
    (cd "$scratch" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download chromium-common) \
        >"$scratch/log" 2>&1
}
say "Fetching SwiftShader out of Debian's chromium-common (about 30 MB)"
# Chromium moves fast: package lists some days old name a version that is gone.
download || { may_install && quiet_apt update >/dev/null 2>&1 && download; } \
    || give_up "apt cannot download chromium-common: $(tail -n 1 "$scratch/log")"

dpkg -x "$scratch"/chromium-common_*.deb "$scratch/chromium"
library=$(find "$scratch/chromium" -name libvk_swiftshader.so -print -quit)
[ -n "$library" ] || give_up "this version of chromium-common does not hold it"
mkdir -p "$folder" "$layer_folder"
cp "$library" "$folder/"
# Manifests name the library relative to themselves. They come last, because they are what says that all is there.
cp "$(dirname "$library")/$manifest" "$folder/"

layer=$(dirname "$library")/libVkLayer_khronos_validation.so
[ -e "$layer" ] || { say "This chromium-common holds no validation layer: the tests take the system's"; exit 0; }
cp "$layer" "$layer_folder/"
cat >"$layer_folder/$layer_manifest" <<'END'
{
    "file_format_version": "1.2.0",
    "layer": {
        "name": "VK_LAYER_KHRONOS_validation",
        "type": "GLOBAL",
        "library_path": "./libVkLayer_khronos_validation.so",
        "api_version": "1.4.0",
        "implementation_version": "1",
        "description": "Khronos Validation Layer"
    }
}
END
