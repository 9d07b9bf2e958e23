"""Faults in reductions, scans and sorting."""

from .kinds import Mutation

MUTATIONS = [
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
        "sort_signed_zeros", "-0 is below 0",
        "kernels/sort.cu",
        "bit_cast<uint64_t>(v + 0.0)",
        "bit_cast<uint64_t>(v)",
        ["special_values::sort"],
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
        "reduce_equal_steps", "batches of a reduction begin where the first one did",
        "kernels/reduce.cuh",
        "        from += LOADS * step;\n",
        "",
        ["reductions::long_rows"],
    ),
]
