"""Faults in gradients that are left in half precision."""

from .kinds import Mutation

MUTATIONS = [
    Mutation(
        "low_grad_sum", "a gradient is added to one in half precision without a conversion",
        "crates/tensor/src/autograd/accumulation.rs",
        "if let Some(sum) = leaf.converted_grad()? {",
        "let existing = leaf.0.meta.lock().grad.clone();\n    if let Some(sum) = existing {",
        ["gradients_are_converted_when_they_are_read"],
        "tensor",
    ),
    Mutation(
        "low_grad_hook", "hooks get gradients in half precision",
        "crates/tensor/src/autograd/engine.rs",
        "let grad = grad.to_dtype(leaf.dtype())?;\n",
        "",
        ["hooks_and_callers_see_gradients_in_the_parameters_dtype"],
        "tensor",
    ),
    Mutation(
        "low_grad_recorded", "a recorded pass leaves the conversion out",
        "crates/tensor/src/autograd/rule.rs",
        "!self.create_graph && self.node.edges.get(i).is_some_and(leaf)",
        "self.node.edges.get(i).is_some_and(leaf)",
        ["hooks_and_callers_see_gradients_in_the_parameters_dtype"],
        "tensor",
    ),
    Mutation(
        "low_grad_captured", "a captured step that adds to a gradient leaves it in half precision",
        "crates/tensor/src/autograd/accumulation.rs",
        "let grad = if is_grad_new(leaf) { grad } else { in_dtype(grad, leaf.dtype())? };",
        "let _ = is_grad_new;",
        ["gradients_that_a_step_adds_to"],
        "captured",
    ),
]
