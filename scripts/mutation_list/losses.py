"""Faults in softmax and losses."""

from .kinds import Mutation

MUTATIONS = [
    Mutation(
        "softmax_packed_none", "threads without elements count as zeros",
        "kernels/softmax_packed.cu",
        "busy, -(R)INFINITY);",
        "busy, R(0));",
        ["reductions::softmax", "reductions::log_softmax"],
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
        "class_loss_grad_barrier", "the gradient is computed before the statistics of all rows are there",
        "kernels/class_loss.cu",
        "__syncthreads();",
        "(void)0;",
        ["cross_entropy_with_its_gradient"],
        "races",
    ),
    Mutation(
        "class_loss_packed_rescale", "the sum of exponentials stays as it was when a larger logit comes",
        "kernels/class_loss_packed.cu",
        "        exps = exps * real::exp(largest - logit);\n",
        "",
        ["cross_entropy_in_packs"],
    ),
    Mutation(
        "class_loss_wide", "losses of half precision are f32 in memory of half precision",
        "crates/cuda/src/ops/class_loss.rs",
        "self.params.wide = u32::from(loss.dtype != self.x.dtype);",
        "self.params.wide = 1;",
        ["cross_entropy"],
    ),
    Mutation(
        "class_loss_wide_finish", "the sum of several blocks is rounded to half precision in f32's memory",
        "crates/cuda/src/ops/loss.rs",
        "wide: is_wide.into() };",
        "wide: 0 };",
        ["cross_entropy_of_half_precision_in_f32"],
    ),
    Mutation(
        "class_loss_packed_rest", "of elements outside of packs, those before them are taken for those after them",
        "kernels/class_loss_packed.cu",
        "ones(i < head ? i : i + count * V);",
        "ones(i);",
        ["cross_entropy_in_packs"],
    ),
    Mutation(
        "class_loss_packed_label", "the label's class is only found at the beginning of a pack",
        "kernels/class_loss_packed.cu",
        "if (place < (uint32_t)V) {",
        "if (place == 0) {",
        ["cross_entropy_in_packs"],
    ),
    Mutation(
        "class_loss_packed_alike", "the gradient is written in packs wherever it lies",
        "crates/cuda/src/ops/class_loss.rs",
        "problem.packed().filter(|_| alike);",
        "problem.packed();",
        ["cross_entropy_in_packs"],
    ),
    Mutation(
        "class_loss_grad_divisor", "a gradient that comes with a mean is that of a sum",
        "kernels/class_loss.cu",
        "R scale = p.reduction == REDUCTION_MEAN ? R(1) / *total : R(1);",
        "R scale = p.reduction == REDUCTION_MEAN && grad ? R(1) / *total : R(1);",
        ["cross_entropy_with_its_gradient"],
    ),
]
