#!/usr/bin/env bash
# The demo: two ranks tell a story. Both on the first Vulkan device, or without one on the
# processor, half of its cores each. A story that does not end well is an error.
set -euo pipefail
. "$(dirname "$0")/common.sh"

devices=0,0
if ! have_vulkan_loader || ! have_vulkan_driver; then
    say "No Vulkan driver: the demo runs on the processor"
    devices=cpu,cpu
fi

prompt='Once upon a time'
options=(--devices "$devices" examples/demo-stories.gguf -n 400 --temperature 0)
say "tplaunch ${options[*]} -p '$prompt'"
exec .venv/bin/python -m examples.story "$prompt" .venv/bin/tplaunch "${options[@]}" -p "$prompt"
