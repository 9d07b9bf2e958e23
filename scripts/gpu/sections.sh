# The sections of run.sh, the most informative first, and the programs that they run.
# shellcheck shell=bash

# The programs that gpu-bundle.sh builds: package, kind of target, name.
PROGRAMS='
kiln          example  device_info
kiln          example  mlp
kiln          example  lenet
kiln          example  vgg16
kiln-cuda     lib      kiln_cuda
kiln-cuda     test     against_cpu
kiln-cuda     test     captures
kiln-cuda     test     copies
kiln-cuda     test     faults
kiln-cuda     test     images
kiln-tests    test     captured_cuda
kiln-tests    test     mlp_cuda
kiln-tests    test     images_cuda
kiln-benches  bench    launch
kiln-benches  bench    models
kiln-benches  bench    ops
kiln-benches  example  null_driver
'

# Name, time limit in seconds, requirement (`-`: any device; `gpu`: a real one; `python`; or a tool of NVIDIA's toolkit, which
# needs a real device, too) and title. The function `section_NAME` runs the section.
# shellcheck disable=SC2034
SECTIONS='
device      120  -                  The device, the driver and the libraries
primitives  900  -                  Every primitive against the CPU
backend     600  -                  The rest of the backend: copies, failures, unit tests
mlp         600  -                  The training of the MLP against the CPU
images      600  -                  VGG16 at reduced width and batches of images against the CPU
vgg16       900  gpu                The training of VGG16 at full width against the CPU
examples    600  -                  The examples: MLP, LeNet and VGG16
launch      120  -                  The time that an operation takes on the host
models      900  -                  Training steps and inference
ops         900  -                  Single operations
predicted   600  python             Times of operations and steps, as predicted and as measured
pytorch     1500 python             Training steps and inference, compared with PyTorch
memory      600  -                  Peak memory
memcheck    900  compute-sanitizer  The kernels under memcheck
racecheck   900  compute-sanitizer  The kernels under racecheck
initcheck   900  compute-sanitizer  The kernels under initcheck
synccheck   900  compute-sanitizer  The kernels under synccheck
bandwidth   900  ncu                The bandwidth that the hot kernels reach
'

subset() { printf '%s' "$root/crates/data/assets/fashion-mnist"; }

section_device() {
    local failed=0
    # With a product and a convolution, so that the libraries are loaded and used.
    program device_info --use || failed=1
    ! command -v nvidia-smi >/dev/null || nvidia-smi
    return "$failed"
}

# On the simulated device a few tests of each kind are enough: CI runs all of them there anyway.
section_primitives() {
    if simulated; then program against_cpu reductions; else program against_cpu; fi
}

section_backend() {
    local failed=0
    program copies || failed=1
    program captures || failed=1
    # Most of these tests need faults of the simulated device, and pass on a real one without doing anything.
    if simulated; then
        program faults missing && program images a_device_loads || failed=1
    else
        program faults && program images || failed=1
    fi
    # A bundle of the programs that CI has built does not have it.
    ! has_program kiln_cuda || program kiln_cuda || failed=1
    return "$failed"
}

section_mlp() {
    local failed=0
    if simulated; then program mlp_cuda launches; else program mlp_cuda --nocapture; fi || failed=1
    if simulated; then program captured_cuda results; else program captured_cuda --nocapture; fi || failed=1
    return "$failed"
}

section_images() {
    if simulated; then program images_cuda batches; else program images_cuda --nocapture; fi
}

section_vgg16() { program images_cuda --ignored --nocapture at_full_width; }

section_examples() {
    local data=$root/crates/data/assets/fashion-mnist whole
    if simulated; then
        program mlp --data "$data" --device cuda --epochs 1 --batch-size 2000 &&
            program vgg16 train --data "$data" --source fashion-mnist --width 0.0625 --image-size 32 --batch-size 4 --batches 1
        return
    fi
    whole=(train --data "$data" --source fashion-mnist --width 1 --image-size 224 --batch-size 64 --batches 20 --epochs 2)
    program mlp --data "$data" --device cuda --epochs 2 &&
        program lenet --data "$data" --epochs 2 &&
        program lenet --data "$data" --epochs 2 --graph &&
        program vgg16 "${whole[@]}" --precision tf32 &&
        program vgg16 "${whole[@]}" --autocast bf16 --channels-last --convolution-benchmark &&
        program vgg16 "${whole[@]}" --autocast bf16 --channels-last --graph
}

# The bench has its own driver, which does nothing.
section_launch() {
    # Only once where times mean nothing, to check that it works.
    if simulated; then program launch --test; else program launch; fi
}

section_models() {
    if simulated; then KILN_BENCH_PRECISION=f32 program models --test mlp; else program models; fi
}

# Its figures are for the section `predicted`, too.
section_ops() {
    if simulated; then
        KILN_BENCH_ROWS=$KILN_SCRATCH/ops.rows KILN_BENCH_PRECISION=tf32,bf16 KILN_BENCH_BENCHMARK=on program ops --test
    else
        KILN_BENCH_ROWS=$KILN_SCRATCH/ops.rows program ops
    fi
}

section_predicted() {
    local steps='' about=$KILN_SCRATCH/device.txt times=$KILN_SCRATCH/times.txt
    # On the simulated device only the smallest steps.
    ! simulated || steps=mlp_f32,lenet_f32,mlp_autocast_bf16
    [ -f "$KILN_SCRATCH/ops.rows" ] || section_ops || return
    program device_info >"$about" || return
    if ! KILN_STEP=$steps program mlp_cuda --ignored --exact --nocapture kernels::times_of_kernels steps::times_of_steps \
        >"$times"; then
        cat "$times"
        return 1
    fi
    "$KILN_PYTHON" "$root/scripts/gpu/predicted.py" "$about" "$KILN_SCRATCH/ops.rows" "$times"
}

section_pytorch() {
    local compare=("$KILN_PYTHON" "$root/benches/peers/compare.py" --cuda --program "$root/bin/models")
    if simulated; then
        "${compare[@]}" --peers '' --precision f32 --benchmark off --batches 64 --turns 1 mlp-infer
        return
    fi
    local why
    why=$("$KILN_PYTHON" -c 'import torch; assert torch.cuda.is_available(), "PyTorch sees no GPU"' 2>&1) ||
        skip "${why##*$'\n'}" || return
    "${compare[@]}" --peers pytorch,pytorch-compiled
}

section_memory() {
    if simulated; then
        KILN_BENCH_MEMORY=1 KILN_BENCH_PRECISION=f32 program models mlp
    else
        KILN_BENCH_MEMORY=1 program models
    fi
}

# The groups of tests of `against_cpu`; those that call libraries (products, convolutions) come last.
KERNEL_GROUPS='elementwise reductions indexing losses normalization pooling optimizers relu_bias_grad basics sums numbers
    special_values wild_indices alignment turns volumes convolution products recurrent attention'

# The kernel suite under one of compute-sanitizer's tools, group by group, until the section's time is over.
sanitize() {
    local group failed=0 sanitizer
    sanitizer=$(tool compute-sanitizer) || return
    for group in $KERNEL_GROUPS; do
        if [ "$SECONDS" -gt $((KILN_SECTION_SECONDS * 3 / 4)) ]; then
            printf 'not reached: %s\n' "$group"
            continue
        fi
        printf '$ compute-sanitizer --tool %s against_cpu %s::\n' "$1" "$group"
        # Without caching: a block of the caching allocator is part of a larger allocation, so accesses beyond the tensor
        # would go unnoticed.
        KILN_CUDA_NO_MEMORY_CACHING=1 timeout -k 5 $((KILN_SECTION_SECONDS * 19 / 20 - SECONDS)) "$sanitizer" --tool "$1" \
            --error-exitcode 86 "$root/bin/against_cpu" "$group::" --test-threads 1
        case $? in
        0) ;;
        124) printf 'not finished: %s\n' "$group" ;;
        *) failed=1 ;;
        esac
    done
    return "$failed"
}

section_memcheck() { sanitize memcheck; }
section_racecheck() { sanitize racecheck; }
section_initcheck() { sanitize initcheck; }
section_synccheck() { sanitize synccheck; }

# Families of kernels, by their names in `kernels/*.cu`.
HOT_KERNELS='unary|binary|copy|cast|reduce|norm|softmax|class_loss|pointwise_loss|max_pool|avg_pool|bias|dropout|optim|relu_bias_grad'

# Runs each kernel of the operation bench once at full size: its time, its bytes per second, and the share of the memory's
# bandwidth.
section_bandwidth() {
    local ncu csv=$KILN_SCRATCH/ncu.csv log=$KILN_SCRATCH/ncu.log failed=0
    local metrics=gpu__time_duration.sum,dram__bytes.sum.per_second,dram__throughput.avg.pct_of_peak_sustained_elapsed
    ncu=$(tool ncu) || return
    # ncu formats numbers by the locale.
    LC_ALL=C KILN_BENCH_ONCE=1 "$ncu" --metrics "$metrics" \
        --kernel-name "regex:^($HOT_KERNELS)" \
        --csv --page raw --print-units base --log-file "$csv" "$root/bin/ops" >"$log" 2>&1 || failed=1
    [ ! -f "$csv" ] || cat "$csv" >>"$log"
    # On many machines only root may read the counters.
    ! has_line ERR_NVGPUCTRPERM "$log" || skip "ncu may not read the GPU's counters here (ERR_NVGPUCTRPERM)" || return
    if [ "$failed" = 1 ] || [ -z "$KILN_PYTHON" ]; then
        cat "$log"
        return "$failed"
    fi
    "$KILN_PYTHON" "$root/benches/ncu_table.py" "$csv"
}
