"""Faults in what cuDNN's attention is given."""

from .kinds import Mutation

FILE = "crates/cuda/src/ops/attention.rs"
MUTATIONS = [
    Mutation(
        "attention_alignment", "an operand at an odd address is given to the library as it lies",
        FILE,
        "if !tensor.address.is_multiple_of(ALIGNMENT) {",
        "if tensor.address == 0 {",
        ["attention_of_any_layout"],
    ),
    Mutation(
        "attention_result", "a result with gaps stays in the memory that was dense",
        FILE,
        "operands.give_back(&taken_out, out)?;",
        "",
        ["attention_of_any_layout"],
    ),
    Mutation(
        "attention_strides", "the key of a plan has no strides of the gradient",
        FILE,
        "let strides = [&q_taken, &k_taken, &v_taken, &out_taken, &grad_taken].map(|taken| taken.strides);",
        "let strides = [&q_taken, &k_taken, &v_taken, &out_taken, &out_taken].map(|taken| taken.strides);",
        ["attention_of_any_layout"],
    ),
]
