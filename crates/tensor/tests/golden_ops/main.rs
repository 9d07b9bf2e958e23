//! Every case of `tests/golden/ops.safetensors`, made by PyTorch: values, dtypes and gradients.

#[path = "../common/mod.rs"]
mod common;

mod elementwise;
mod reducing;
mod shaping;

use common::suite::Suite;

#[test]
fn operations_are_pytorchs() {
    Suite {
        file: "ops.safetensors",
        ops: &[
            elementwise::UNARY,
            elementwise::BINARY,
            elementwise::OTHERS,
            reducing::REDUCTIONS,
            reducing::OTHERS,
            shaping::VIEWS,
            shaping::PRODUCTS,
            shaping::CREATION,
        ],
        absent: &[("elu", "not among the activations of Kiln"), ("leaky_relu", "not among the activations of Kiln")],
        refused: &[],
        different: &[],
    }
    .run();
}
