#!/usr/bin/env bash
# Tests and measures Kiln on a machine with an NVIDIA GPU and cargo: builds the programs that scripts/gpu-bundle.sh packs for
# machines without cargo, and runs the same sections. Needs Rust, a C linker, nvcc (kernels/README.md) and cuBLASLt.
#
#   scripts/gpu-check.sh [minutes] [folder for the report]
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
"$checkout/scripts/gpu-bundle.sh" --here "$checkout/target/gpu-check"
exec "$checkout/target/gpu-check/run.sh" "$@"
