#!/usr/bin/env bash
# Runs the tests of the kernels with cooperative matrices on the lavapipe that has some. It is built for a newer C
# library than Debian 12's: there Python runs by that library's own loader, in this process only, which is enough for them.
set -euo pipefail
. "$(dirname "$0")/common.sh"

folder=$PWD/.cache/matrices
python=$PWD/.venv/bin/python
loader=("$folder/lib/ld-linux-x86-64.so.2" --argv0 "$python"
    --library-path "$folder/lib:/usr/lib/x86_64-linux-gnu" "$python")
tests=(tests/vulkan/test_{matmul,variants,experts,quantize,checking,tuning,steps,matrices,attention_matrices,rounding}.py)
exec "${loader[@]}" -m pytest -n 0 "${tests[@]}" -k "mesa and not plain" "$@"
