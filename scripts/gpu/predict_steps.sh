#!/usr/bin/env bash
# Writes predicted_steps.txt: how long whole steps of training take on each GPU of scripts/gpu_profiles.txt, by what they move and
# compute on the simulated device (docs/simulator.md). Takes half an hour and some GB; needs what `cargo sim` needs.
set -euo pipefail
cd "$(dirname "$0")/../.."
table=scripts/gpu/predicted_steps.txt
steps=(mlp_f32:64 mlp_autocast_bf16:64 lenet_f32:64 vgg16_f32:2 vgg16_bn_f32:2)
{
    echo "# Microseconds of a step of training (forward, backward, SGD with momentum) that follow from what it moves and computes, one"
    echo "# launch after the other, by name and batch size: scripts/gpu/predict_steps.sh writes this table."
    printf '# step %s\n' "$(grep -v '^#' scripts/gpu_profiles.txt | cut -d ' ' -f 1 | tr '\n' ' ' | sed 's/ $//')"
} >"$table.new"
for step in "${steps[@]}"; do
    found=$(KILN_STEP=$step KILN_SIM_NO_VALUES=1 KILN_SIM_MEMORY=12000000000 cargo sim --account test -p kiln-tests \
        --features cuda --test mlp_cuda -- --ignored --exact steps::step_of_full_size 2>&1 | sed -n 's/^µs on each GPU: //p')
    [ -n "$found" ] || { echo "$step has no account" >&2 && exit 1; }
    # `A100 1.0, H100 2.0` -> `1.0 2.0`
    printf '%-32s%6s%s\n' "${step%:*}" "${step#*:}" "$(sed 's/[^ ,]* \([0-9.]*\),\{0,1\}/ \1/g' <<<"$found")" >>"$table.new"
    tail -n 1 "$table.new"
done
mv "$table.new" "$table"
