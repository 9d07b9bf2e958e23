#!/usr/bin/env bash
# Compiles the cubins of this folder: make.sh NVCC PTXAS_13 PTXAS_12 (the assemblers of CUDA 13 and 12 write different headers).
set -euo pipefail
cd "$(dirname "$0")"
"$1" -ptx -O3 -std=c++17 -arch=compute_80 -o kernels.ptx kernels.cu
sed -i 's/^\.version .*/.version 7.0/' kernels.ptx
for arch in 80 90; do
    "$2" -arch=sm_$arch -o sm_$arch.cuda13.cubin kernels.ptx
done
"$3" -arch=sm_80 -o sm_80.cuda12.cubin kernels.ptx
rm kernels.ptx
