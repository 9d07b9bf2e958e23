"""Faults in pooling."""

from .kinds import Mutation

MUTATIONS = [
    Mutation(
        "pool_relu_bias", "the bias before pooling gets the gradients that ReLU does not let through",
        "crates/tensor/src/ops/pool2d.rs",
        "let (masked, sums) = grad.relu_bias_gradient(&maxima, 1)?;",
        "let (masked, sums) = (grad.relu_gradient(&maxima)?, grad.sum([0, 2, 3])?);",
        ["gradients_through_a_convolution_and_pooling"],
        "tensor",
    ),
    Mutation(
        "pool_relu_without_bias", "where there is no bias, the gradient of max pooling passes ReLU as it is",
        "crates/tensor/src/ops/pool2d.rs",
        "(grad.relu_gradient(&maxima)?, None)",
        "(grad.clone(), None)",
        ["gradients_through_a_convolution_and_pooling"],
        "tensor",
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
        ["max_pool2d_of_infinities"],
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
]
