"""Faults in optimizers and the scaling of gradients."""

from .kinds import Mutation

MUTATIONS = [
    Mutation(
        "adam_infinite_parameter", "weight decay of 0 times an infinite parameter makes the gradient NaN",
        "kernels/optim.cu",
        "if (decay != R(0)) step",
        "step",
        ["special_values::optimizers"],
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
        "optimizer_progress", "a parameter's step is counted by each block instead of the last",
        "kernels/optim.cu",
        "    if (!last) return;\n",
        "",
        ["optimizers"],
    ),
    Mutation(
        "optimizer_skipped_count", "a step that is skipped counts",
        "kernels/optim.cu",
        "k = threadIdx.x; !skipped && k < p.slots;",
        "k = threadIdx.x; k < p.slots;",
        ["optimizers"],
    ),
    Mutation(
        "optimizer_packed", "16 bytes at a time wherever states begin",
        "crates/cuda/src/params/step.rs",
        "tail |= packed(&[param, grad, a, b, c]);",
        "tail |= packed(&[param, grad]);",
        ["optimizers"],
    ),
    Mutation(
        "optimizer_own_grad", "a gradient in f32 among others in half precision is read as one of these",
        "crates/cuda/src/ops/optim.rs",
        "own_grad: slot.grad.dtype() != kind.1,",
        "own_grad: false,",
        ["optimizers"],
    ),
    Mutation(
        "optimizer_joined", "parameters that have joined a launch are updated by one of their own, too",
        "crates/cuda/src/ops/optim.rs",
        "rest = later;",
        "rest = now.into_iter().chain(later).collect();",
        ["optimizers"],
    ),
    Mutation(
        "optimizer_low_dtype", "rounded copies of parameters are all bf16",
        "crates/cuda/src/params/step.rs",
        "tail |= if dtype == DType::F16 { LOW_F16 } else { LOW_BF16 };",
        "tail |= LOW_BF16;",
        ["optimizers"],
    ),
    Mutation(
        "optimizer_scale", "gradients are multiplied by the scale",
        "kernels/optim.cu",
        "(R)(1.0 / (f64)*p.scale)",
        "(R)(*p.scale)",
        ["optimizers"],
    ),
    Mutation(
        "unscale_found", "only the last element of a thread is looked at",
        "kernels/grad_scaler.cu",
        "found = found || values[v]",
        "found = values[v]",
        ["unscaled_gradients"],
    ),
    Mutation(
        "update_scale_interval", "the scale grows a step late",
        "kernels/grad_scaler.cu",
        "*tracker + 1 == interval",
        "*tracker == interval",
        ["scales_that_move"],
    ),
]
