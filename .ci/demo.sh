#!/usr/bin/env bash
# The demo: two ranks tell a story. Both on the first Vulkan device, or without one on the CPU.
set -euo pipefail
. "$(dirname "$0")/common.sh"

devices=0,0
if ! have_vulkan_loader || ! have_vulkan_driver; then
    say "No Vulkan driver: the demo runs on the CPU, in NumPy"
    devices=cpu,cpu
fi

say "tplaunch --devices $devices examples/demo-stories.gguf -p 'Once upon a time' -n 400 --temperature 0"
[ -t 1 ] || printf 'Once upon a time'  # on a terminal tplaunch repeats the prompt itself
exec .venv/bin/tplaunch --devices "$devices" examples/demo-stories.gguf -p 'Once upon a time' -n 400 --temperature 0
