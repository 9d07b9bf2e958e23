#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: runs there what the simulated device stands in for elsewhere (tests, benches, the
# trainings), and writes one report. Needs Rust, a C linker, nvcc (kernels/README.md) and cuBLASLt.
#
#   scripts/gpu-check.sh [report.md]
set -uo pipefail
cd "$(dirname "$0")/.."
report=${1:-target/gpu-report.md}
mkdir -p "$(dirname "$report")"
failed=0

# A section of the report: a title, and a command with what it prints and how it ends.
section() {
    local title=$1 start=$SECONDS code
    shift
    echo "== $title: $*"
    { printf '\n## %s\n\n`%s`\n\n```text\n' "$title" "$*"; } >>"$report"
    "$@" 2>&1 | sed 's/\x1b\[[0-9;]*[A-Za-z]//g' | tee -a "$report"
    code=${PIPESTATUS[0]}
    { printf '```\n\nended with %s after %s s\n' "$code" "$((SECONDS - start))"; } >>"$report"
    [ "$code" -eq 0 ] || failed=$((failed + 1))
}

export CARGO_TERM_COLOR=never
# A test that finds no device fails instead of passing.
export KILN_REQUIRE_DEVICE=1
unset KILN_CUDA_STUB

printf '# Kiln on a GPU, %s\n\ncommit %s\n' "$(date -u '+%F %R') UTC" "$(git rev-parse HEAD 2>/dev/null)" >"$report"
section "Device" nvidia-smi
section "Compilers" bash -c 'rustc --version; ${NVCC:-nvcc} --version'
section "Primitives against the CPU" cargo test -p kiln-cuda --features kernels --test against_cpu -- --nocapture
section "The rest of the backend" cargo test -p kiln-cuda --features kernels --lib --test copies --test faults --test images --test ptx
section "The MLP against the CPU" cargo test -p kiln-tests --features cuda --test mlp_cuda -- --nocapture
section "VGG and images against the CPU" cargo test -p kiln-tests --features cuda --test images_cuda -- --nocapture
section "Bench" cargo bench --features cuda --bench models --bench ops
section "Host cost of operations" cargo bench --features cuda --bench launch
section "Training of the MLP" cargo run --release --features cuda --example mlp -- --device cuda --epochs 2
section "Training of VGG16" cargo run --release --features cuda,images --example vgg16 -- train --epochs 1
printf '\n%s sections failed\n' "$failed" >>"$report"
echo "$failed sections failed; the report is $report"
[ "$failed" -eq 0 ]
