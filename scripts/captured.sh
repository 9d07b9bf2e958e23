#!/usr/bin/env bash
# Trains the MLP, LeNet, VGG16 and VGG16 with batch normalization (at reduced width) for 100 steps each on the simulated device,
# eagerly and captured, and requires the same losses, parameters, averages and random state, bit for bit. CI has the short ones.
#
#   scripts/captured.sh                        all of it
#   scripts/captured.sh random address         some of it
#
# forward, reversed and random are orders of threads, blocks and streams; races watches global memory as well, in random order
# and without the caching allocator; address and thread are the compiler's sanitizers.
set -euo pipefail
cd "$(dirname "$0")/.."

tests=(test -p kiln-tests --features cuda --test captured_cuda)
networks=(-- --include-ignored networks::)
cargo "${tests[@]}" --no-run

run() {
    case $1 in
        forward | reversed | random) env KILN_SIM_ORDER="$1" cargo sim "${tests[@]}" "${networks[@]}" ;;
        races)
            env KILN_SIM_ORDER=random KILN_SIM_RACES=1 KILN_CUDA_NO_MEMORY_CACHING=1 cargo sim "${tests[@]}" "${networks[@]}"
            ;;
        address | thread) cargo sim --sanitize "$1" "${tests[@]}" "${networks[@]}" ;;
        *)
            echo "$1 is none of forward, reversed, random, races, address, thread" >&2
            exit 2
            ;;
    esac
}

export KILN_REQUIRE_DEVICE=1
if [ $# = 0 ]; then set -- forward reversed random races address thread; fi
for way in "$@"; do
    echo "== $way"
    TIMEFORMAT="== $way: %0R s"
    time run "$way"
done
