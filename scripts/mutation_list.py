"""The faults that scripts/mutations.py plants. Each is a plausible mistake, or one that once went unnoticed."""

from dataclasses import dataclass, field


@dataclass
class Suite:
    """Tests: what cargo's `test` takes before `--`, and whether they run on the simulated device."""

    arguments: list
    simulated: bool = True
    environment: dict = field(default_factory=dict)


@dataclass
class Mutation:
    """A fault: the piece of source (which occurs once), what takes its place, and the tests that should see it."""

    name: str
    why: str
    file: str
    search: str
    replace: str
    tests: list
    suite: str = "against_cpu"


DEVICE = ["-p", "kiln-cuda", "--features", "kernels"]
SUITES = {
    "against_cpu": Suite([*DEVICE, "--test", "against_cpu"]),
    # Every block is an allocation, so that what leaves its own is named.
    "uncached": Suite([*DEVICE, "--test", "against_cpu"], environment={"KILN_CUDA_NO_MEMORY_CACHING": "1"}),
    "races": Suite([*DEVICE, "--test", "against_cpu"], environment={"KILN_SIM_ORDER": "random", "KILN_SIM_RACES": "1"}),
    "copies": Suite([*DEVICE, "--test", "copies"]),
    "captures": Suite([*DEVICE, "--test", "captures"]),
    "captured": Suite(["-p", "kiln-tests", "--features", "cuda", "--test", "captured_cuda"]),
    "unit": Suite([*DEVICE, "--lib"], simulated=False),
}

MUTATIONS = [
    # ---- what passed unseen when strangers planted faults ----
    Mutation(
        "matmul_broadcast_stride", "the batch stride of a factor that the batch shares is not 0",
        "crates/cuda/src/ops/matmul.rs",
        "let [sa, sb, so] = batch.steps.map(|step| step as i64);",
        "let [sa, sb, so] = batch.steps.map(|step| (step as i64).max(1));",
        ["matmul_of_broadcast_factors"],
    ),
    Mutation(
        "cumsum_barrier", "no barrier between the turns of a line of more than 256 elements",
        "kernels/scan.cu",
        "            carry += shared[255];\n            __syncthreads();\n",
        "            carry += shared[255];\n",
        ["turns::cumsum"],
    ),
    Mutation(
        "mean_in_half", "the sum of half precision is rounded to it before it is divided",
        "kernels/reduce.cuh",
        "        total = fold_team(team, shared, total, [](A a, A b) { return Op::merge(a, b); });\n",
        "        total = fold_team(team, shared, total, [](A a, A b) { return Op::merge(a, b); });\n"
        "        if constexpr (sizeof(T) == 2 && sizeof(A) == 4) total = load(store<T>(total));\n",
        ["sums_in_half_precision"],
    ),
    Mutation(
        "gather_grid_loop", "a thread takes one element, however many there are",
        "kernels/index.cu",
        "i < p.grid.numel; i += thread_count()",
        "i < p.grid.numel; i += p.grid.numel",
        ["turns::gather"],
    ),
    Mutation(
        "gather_negative_index", "negative indices count as inside",
        "kernels/index.cu",
        "(uint64_t)from >= p.size",
        "from >= (int64_t)p.size",
        ["wild_indices::gather"],
    ),
    Mutation(
        "scatter_index_at_the_end", "the index that is the extent counts as inside",
        "kernels/index.cu",
        "            if ((uint64_t)to >= p.size) {\n                if (part == 0) report",
        "            if ((uint64_t)to > p.size) {\n                if (part == 0) report",
        ["wild_indices::scatter"],
    ),
    Mutation(
        "sort_signed_zeros", "-0 is below 0",
        "kernels/sort.cu",
        "bit_cast<uint64_t>(v + 0.0)",
        "bit_cast<uint64_t>(v)",
        ["special_values::sort"],
    ),
    Mutation(
        "pack_alignment", "16 bytes at a time wherever operands begin",
        "crates/cuda/src/params/grid.rs",
        "place.address.is_multiple_of(16)",
        "place.address.is_multiple_of(1)",
        ["alignment::"],
    ),
    Mutation(
        "adam_infinite_parameter", "weight decay of 0 times an infinite parameter makes the gradient NaN",
        "kernels/optim.cu",
        "if (decay != R(0)) grad",
        "grad",
        ["special_values::optimizers"],
    ),
    Mutation(
        "image_choice", "the SASS of the oldest architecture that a device can run instead of the newest",
        "crates/cuda/src/images.rs",
        "filter(|&sass| runs(capability, sass)).max()",
        "filter(|&sass| runs(capability, sass)).min()",
        ["images::"],
        "unit",
    ),
    Mutation(
        "convolution_workspace", "one byte less than cuDNN's plan asked for",
        "crates/cuda/src/conv/dnn.rs",
        "aside(bytes).map(Some)",
        "aside(bytes - 1).map(Some)",
        ["conv2d_shapes"],
        "uncached",
    ),
    Mutation(
        "convolution_binding", "filter and image exchanged in what a plan is given",
        "crates/cuda/src/conv/dnn.rs",
        "[(uid::X, at.x), (uid::W, at.w),",
        "[(uid::W, at.x), (uid::X, at.w),",
        ["conv2d_shapes"],
    ),
    Mutation(
        "convolution_strides", "the strides of rows and columns exchanged in what cuDNN is told of a tensor",
        "crates/cuda/src/conv/graph.rs",
        "&wide(self.problem.format.strides(dims))",
        "&{ let [n, c, h, w] = wide(self.problem.format.strides(dims)); [n, c, w, h] }",
        ["conv2d_shapes"],
    ),
    Mutation(
        "convolution_alignment", "cuDNN is told that every address is a multiple of 16",
        "crates/cuda/src/conv/problem.rs",
        "1 << bits.trailing_zeros()",
        "16 << (bits.trailing_zeros() & 0)",
        ["conv2d_layouts"],
    ),
    Mutation(
        "convolution_sums", "the sums of a fused bias gradient are added to what was there",
        "crates/cuda/src/conv/dnn.rs",
        "if !problem.direction.has_channel_sums() {",
        "if problem.direction.has_channel_sums() {",
        ["conv2d_settings"],
    ),
    # ---- launch code ----
    Mutation(
        "matmul_workspace", "half of the memory that cuBLASLt's algorithm asked for",
        "crates/cuda/src/gemm/lt.rs",
        "self.memory.block(bytes)",
        "self.memory.block(bytes / 2)",
        ["matmul"],
        "uncached",
    ),
    Mutation(
        "sort_scratch", "half of the memory for the entries of a sort",
        "crates/cuda/src/ops/sort.rs",
        ".saturating_mul(ENTRY)",
        ".saturating_mul(ENTRY / 2)",
        ["turns::sort"],
        "uncached",
    ),
    Mutation(
        "reduce_scratch", "partial results of 8 bytes, where a variance has 24",
        "crates/cuda/src/ops/reduce.rs",
        "plan.partials() as usize * Reduce::PARTIAL",
        "plan.partials() as usize * 8",
        ["sums_in_half_precision"],
        "uncached",
    ),
    Mutation(
        "optimizer_tail", "the last block of a parameter is taken for full",
        "crates/cuda/src/params/step.rs",
        "let tail = (numel - blocks.saturating_sub(1) * OPTIM_BLOCK) as u32;",
        "let tail = numel.min(OPTIM_BLOCK) as u32;",
        ["optimizers"],
        "uncached",
    ),
    Mutation(
        "grid_joined_dimensions", "dimensions are joined if the first operand allows it",
        "crates/cuda/src/params/grid.rs",
        "(0..N).all(|k| grid.strides[k][last] == strides[k] * extent as i64)",
        "(0..N.min(1)).all(|k| grid.strides[k][last] == strides[k] * extent as i64)",
        ["copy"],
    ),
    Mutation(
        "copy_before_last_use", "a batch is copied into memory that queued work still reads",
        "crates/cuda/src/copies.rs",
        "Used::Until(Some(unused)) => unsafe { wait(stream, unused)? },",
        "Used::Until(Some(_)) => (),",
        ["batches"],
        "copies",
    ),
    Mutation(
        "work_before_copy", "work does not wait for the batch that it reads",
        "crates/cuda/src/copies.rs",
        "        unsafe { wait(compute, self.copied)? };\n",
        "",
        ["batches"],
        "copies",
    ),
    Mutation(
        "unused_batch", "the memory of a batch that nobody used is handed out before the copy into it has ended",
        "crates/cuda/src/copies.rs",
        "copied: (!awaited.into_inner()).then_some(copied)",
        "copied: None",
        ["memory_of_batches"],
        "copies",
    ),
    # ---- kernels ----
    Mutation(
        "fill_rest", "what is left after the last pack of 16 bytes is not filled",
        "kernels/fill.cu",
        "i += n / V * V;",
        "i += n;",
        ["alignment::fill"],
    ),
    Mutation(
        "reduce_grid_loop", "a block takes one turn, however many results there are",
        "kernels/reduce.cuh",
        "start += (uint64_t)gridDim.x * team.teams",
        "start += tasks",
        ["turns::reduce"],
    ),
    Mutation(
        "sort_last_run", "the end of a short last run is not looked for",
        "kernels/sort.cu",
        "        if (end > n) end = n;\n",
        "",
        ["turns::sort_merge"],
        "uncached",
    ),
    Mutation(
        "search_right", "equal elements count on the wrong side",
        "kernels/sort.cu",
        "p.right ? other <= key : other < key",
        "p.right ? other < key : other <= key",
        ["searchsorted"],
    ),
    Mutation(
        "matmul_barrier", "the next tile is written while the last one is being read",
        "kernels/matmul.cu",
        "* (uint64_t)right[k][threadIdx.x];\n                __syncthreads();\n",
        "* (uint64_t)right[k][threadIdx.x];\n",
        ["turns::matmul"],
    ),
    Mutation(
        "norm_running_variance", "the running variance is the biased one",
        "kernels/norm.cu",
        "own.squares / (count - R(1))",
        "own.squares / count",
        ["batch_norm"],
    ),
    Mutation(
        "conv2d_padding", "taps in the padding after the image are read",
        "kernels/conv2d.cu",
        "return in >= 0 && in < p.size[d];",
        "return in >= 0 && in <= p.size[d];",
        ["conv2d_by_the_kernel"],
    ),
    Mutation(
        "conv2d_stride", "the gradient of the input comes from pixels between the strides, too",
        "kernels/conv2d.cu",
        "return out * (int64_t)p.stride[d].extent == place && out < p.out_size[d];",
        "return out < p.out_size[d];",
        ["conv2d_by_the_kernel"],
    ),
    Mutation(
        "max_pool_nan", "NaN is not the largest",
        "kernels/pool2d.cu",
        "place < 0 || value > best || value != value",
        "place < 0 || value > best",
        ["max_pool"],
    ),
    Mutation(
        "max_pool_packed_first", "of equal elements the last counts",
        "kernels/pool2d_packed.cu",
        "value > best[v] || value != value",
        "value >= best[v] || value != value",
        ["max_pool2d_in_packs"],
    ),
    Mutation(
        "max_pool_packed_padding", "the first tap of a window that begins in the padding is the first of all",
        "kernels/pool2d_packed.cu",
        "        if (BEFORE && at.pack == 0) ++largest.tap[0];\n",
        "",
        ["max_pool2d_in_packs"],
    ),
    Mutation(
        "max_pool_packed_overlap", "the window after the last of a pack gives nothing",
        "kernels/pool2d_packed.cu",
        "more = inside && BEFORE && (at.pack + 1) * V < p.out_width",
        "more = inside && BEFORE && (at.pack + 2) * V < p.out_width",
        ["max_pool2d_in_packs"],
    ),
    Mutation(
        "max_pool_packed_turns", "a thread takes one pack, however many there are",
        "kernels/pool2d_packed.cu",
        "        int y = 2 * at.row;\n",
        "        if (i != (uint32_t)thread_index()) break;\n        int y = 2 * at.row;\n",
        ["turns::max_pool_packed_grad"],
    ),
    Mutation(
        "mean_packed_grad_next_plane", "a pack of two planes has the first one's share",
        "kernels/pool2d_packed.cu",
        "v < left ? share : next",
        "share",
        ["avg_pool2d_of_planes"],
    ),
    Mutation(
        "max_pool_packed_alignment", "packs wherever numbers of taps begin",
        "crates/cuda/src/params/packed_pool.rs",
        "taps.is_none_or(|taps| taps.holds_packs_of(elements))",
        "taps.is_none_or(|_| elements > 0)",
        ["alignment::max_pool2d"],
    ),
    Mutation(
        "max_pool_taps_outside", "the number of a tap counts wherever the window has no such tap",
        "kernels/pool2d.cu",
        "tap * axis.dilation.extent == into ? (int64_t)tap : axis.kernel",
        "(int64_t)tap",
        ["pooling::max_pool2d"],
    ),
    Mutation(
        "norm_packed_moments", "moments are merged as if each part had as many elements as all before it",
        "kernels/norm_packed.cu",
        "share = R(EACH) / after",
        "share = R(0.5)",
        ["batch_norm", "layer_norm"],
    ),
    Mutation(
        "norm_packed_partial", "the second stage reads the parts of the first group of a pack for all",
        "kernels/norm_packed.cu",
        "const Moments<R>* from = partial + (group + k) * groups.splits;",
        "const Moments<R>* from = partial + group * groups.splits;",
        ["batch_norm"],
    ),
    Mutation(
        "norm_packed_weight", "weights of elements inside a group are those of the first pack",
        "kernels/norm_packed.cu",
        "weights[k] = read_pack<T, V>(weight + (uint64_t)places.index[k] * V);\n                if (Inside && bias) biases",
        "weights[k] = read_pack<T, V>(weight);\n                if (Inside && bias) biases",
        ["layer_norm"],
    ),
    Mutation(
        "norm_packed_dense_weight", "weights inside a group are read in packs wherever they lie",
        "crates/cuda/src/ops/norm.rs",
        "v.address.is_multiple_of(16) && v.layout.strides()[0] == 1",
        "v.address.is_multiple_of(4) || v.layout.strides()[0] == 1",
        ["layer_norm"],
    ),
    Mutation(
        "softmax_packed_none", "threads without elements count as zeros",
        "kernels/softmax_packed.cu",
        "busy, -(R)INFINITY);",
        "busy, R(0));",
        ["reductions::softmax", "reductions::log_softmax"],
    ),
    Mutation(
        "dropout_second_block", "all elements of a pack take the words of its first counter block",
        "kernels/dropout.cu",
        "philox(state, 2 * i + b)",
        "philox(state, 2 * i)",
        ["dropout"],
    ),
    Mutation(
        "reduce_equal_steps", "batches of a reduction begin where the first one did",
        "kernels/reduce.cuh",
        "        from += LOADS * step;\n",
        "",
        ["reductions::"],
    ),
    Mutation(
        "relu_bias_grad_packed_rest", "the packs after the last that are taken together are left out",
        "kernels/packed_groups.cuh",
        "for (; i < part.end; i += team.size) each",
        "for (; i + team.size < part.end; i += team.size) each",
        ["relu_bias_grad_in_packs"],
    ),
    Mutation(
        "relu_bias_grad_packed_runs", "the packs of a group lie side by side, wherever its images are",
        "kernels/packed_groups.cuh",
        "run * p.run_stride + inside * (int64_t)p.step",
        "pack * (int64_t)p.step",
        ["relu_bias_grad_in_packs"],
    ),
    Mutation(
        "packed_groups_alike", "packs wherever the first operand has them",
        "crates/cuda/src/params/packed_groups.rs",
        "size > 4 || !alike || !aligned",
        "size > 4 || !aligned",
        ["relu_bias_grad"],
    ),
    Mutation(
        "relu_gradient_at_zero", "the gradient of ReLU at 0 is 1",
        "kernels/relu_bias_grad.cu",
        "if (v[k] <= R(0))",
        "if (v[k] < R(0))",
        ["relu"],
    ),
    Mutation(
        "loss_partial_sums", "partial sums beyond the 256th block are left out",
        "kernels/class_loss.cu",
        "i < p.blocks; i += 256)",
        "i < p.blocks; i += p.blocks)",
        ["partial_sums_of_many_blocks"],
    ),
    Mutation(
        "loss_smoothing", "label smoothing subtracts what it should add",
        "kernels/class_loss.cu",
        "(R)p.kept * value + (R)p.share",
        "(R)p.kept * value - (R)p.share",
        ["cross_entropy"],
    ),
    Mutation(
        "dropout_grid_loop", "elements beyond the first turn are not written",
        "kernels/dropout.cu",
        "b += thread_count()",
        "b += grid.numel",
        ["turns::dropout"],
    ),
    Mutation(
        "optimizer_progress", "a parameter's step is counted by each block instead of the last",
        "kernels/optim.cu",
        "    if (!last) return;\n",
        "",
        ["optimizers"],
    ),
    Mutation(
        "scatter_half_start", "sums of half precision begin with 0 instead of what is there",
        "kernels/index.cu",
        "if (pass == 0) *sum = load(*element);",
        "if (pass == 0) *sum = 0.0f;",
        ["scatter_add"],
    ),
    Mutation(
        "tril_triu_rows", "all matrices of a batch are taken for one",
        "kernels/tril_triu.cu",
        "row = (int64_t)(i / shape.columns % shape.rows)",
        "row = (int64_t)(i / shape.columns)",
        ["tril_triu"],
    ),
    Mutation(
        "class_loss_grad_barrier", "the gradient is computed before the statistics of all rows are there",
        "kernels/class_loss.cu",
        "__syncthreads();",
        "(void)0;",
        ["cross_entropy_with_its_gradient"],
        "races",
    ),
    Mutation(
        "class_loss_grad_divisor", "a gradient that comes with a mean is that of a sum",
        "kernels/class_loss.cu",
        "R scale = p.reduction == REDUCTION_MEAN ? R(1) / *total : R(1);",
        "R scale = p.reduction == REDUCTION_MEAN && grad ? R(1) / *total : R(1);",
        ["cross_entropy_with_its_gradient"],
    ),
    # ---- steps that are captured as a graph ----
    Mutation(
        "capture_stale_slot", "host values in a pinned slot are captured, and the slot is used again",
        "crates/cuda/src/device.rs",
        """        unless_capturing("upload", "every launch of the capture would use the same values of the host")?;
""",
        "",
        ["what_waits"],
        "captures",
    ),
    Mutation(
        "capture_freed_address", "memory that a graph uses is reused",
        "crates/cuda/src/memory.rs",
        "if allocation.pool != pool && held.insert(allocation.address) {",
        "if false && allocation.pool != pool && held.insert(allocation.address) {",
        ["launches_take"],
        "captures",
    ),
    Mutation(
        "capture_missing_join", "results are copied without waiting for the work",
        "crates/cuda/src/capture/graph.rs",
        "(node, self.graph, work, 1, &raw const params, raw)",
        "(node, self.graph, work, 0, &raw const params, raw)",
        ["launches_take"],
        "captures",
    ),
    Mutation(
        "capture_random_position", "the device's generator stays where the launch before left it",
        "crates/cuda/src/generator.rs",
        "        if positions.base != state {",
        "        if false && positions.base != state {",
        ["random_numbers"],
        "captures",
    ),
    Mutation(
        "capture_baked_rate", "a learning rate that a scheduler changes is not written before a launch",
        "crates/nn/src/optim/group.rs",
        "            before_launch(move || lock(&shared).write());",
        "            drop(shared);",
        ["networks::mlp"],
        "captured",
    ),
    Mutation(
        "capture_partial_batch", "a smaller batch is given to the graph of a larger one",
        "crates/tensor/src/captured/step.rs",
        "graph.case == case && graph.state == address",
        "graph.case.0 == case.0 && graph.state == address",
        ["networks::mlp"],
        "captured",
    ),
]
