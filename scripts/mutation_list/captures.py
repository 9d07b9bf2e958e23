"""Faults in steps that are captured as a graph."""

from .kinds import Mutation

MUTATIONS = [
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
        "inputs.iter().zip(tensors).all(fits)",
        "inputs.iter().zip(tensors).all(|pair| fits(pair) || true)",
        ["networks::mlp"],
        "captured",
    ),
    Mutation(
        "capture_scaler_settings", "a captured step goes on with the growth interval of its capture",
        "crates/nn/src/optim/grad_scaler.rs",
        "valid_while(move || growth.upgrade().is_some_and(|growth| *lock(&growth) == now));",
        "valid_while(move || growth.upgrade().is_some_and(|growth| *lock(&growth) == now || true));",
        ["scaled::f16"],
        "captured",
    ),
    Mutation(
        "low_copy_stale", "a parameter that was changed by hand is not converted again before a launch",
        "crates/tensor/src/autocast/kept.rs",
        "        if low.kept.as_ref().is_none_or(|kept| kept.is_of(param)) {\n            return Ok(());",
        "        if low.kept.as_ref().is_none_or(|kept| kept.is_of(param) || true) {\n            return Ok(());",
        ["low_copies::launches"],
        "captured",
    ),
    Mutation(
        "low_copy_after_launch", "after a launch that wrote a parameter and its copy the copy counts as that of before",
        "crates/tensor/src/captured/record.rs",
        "                after_launch(&param, *is_valid);",
        "                after_launch(&param, false);",
        ["low_copies::a_launch"],
        "captured",
    ),
    Mutation(
        "low_copy_skipped", "the copy that a step writes first is not that of the parameter if the step is skipped",
        "crates/tensor/src/autocast/kept.rs",
        "        None if may_skip => Kept",
        "        None if may_skip && is_capturing() => Kept",
        ["low_copies::no_step", "low_copies::launches"],
        "captured",
    ),
]
