"""Faults in gathering and scattering."""

from .kinds import Mutation

MUTATIONS = [
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
        "scatter_half_start", "sums of half precision begin with 0 instead of what is there",
        "kernels/index.cu",
        "if (pass == 0) *sum = load(*element);",
        "if (pass == 0) *sum = 0.0f;",
        ["scatter_add"],
    ),
    Mutation(
        "scatter_max_nan", "a number after NaN is larger",
        "kernels/index.cu",
        "return a > b || a != a ? a : b;",
        "return a > b ? a : b;",
        ["scatters_of_nan"],
    ),
    Mutation(
        "scatter_mul_adds", "products by index are sums",
        "kernels/index.cu",
        "FOR_DIRECT(SCATTER_COMBINED, mul, times)",
        "FOR_DIRECT(SCATTER_COMBINED, mul, plus)",
        ["scatter_mul"],
    ),
]
