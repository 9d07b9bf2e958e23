//! Every case of `tests/golden/ops.safetensors`, made by PyTorch: values, dtypes and gradients.

#[path = "../common/mod.rs"]
mod common;

mod elementwise;
mod indexing;
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
            indexing::LISTS,
            indexing::OTHERS,
            shaping::VIEWS,
            shaping::PRODUCTS,
            shaping::CREATION,
        ],
        absent: &[],
        refused: &[("promote_*", "operands of different dtypes are an error that says to convert one")],
        different: &[],
    }
    .run();
}
