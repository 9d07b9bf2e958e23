//! Every case of `tests/golden/ops.safetensors` and `numbers.safetensors`, made by PyTorch: values, dtypes and gradients.

#[path = "../common/mod.rs"]
mod common;

mod elementwise;
mod indexing;
mod reducing;
mod shaping;

use common::suite::Suite;

/// Operands of different dtypes are an error that says to convert one; `promote_*` also has pairs of equal
/// dtypes, which work.
const MIXED: &str = "operands of different dtypes";
const TRUTH: &str = "logical operations take truth values and the bits of integers; compare floats first";

const REFUSED: &[(&str, &str)] = &[
    ("promote_*", MIXED),
    ("*_mixed", MIXED),
    ("logical_and_f64", TRUTH),
    ("logical_or_f64", TRUTH),
    ("logical_xor_f64", TRUTH),
    ("mul_bool_by_bool", "truth values are combined by logical_and"),
    ("where_scalars*", "one of the two values is a tensor, which tells the dtype"),
    ("div_i64_trunc", "integers are divided as f32, or rounded down by floor_divide"),
];

/// Of the names in `REFUSED`, those that work: pairs of equal dtypes.
const ACCEPTED: &[&str] = &[
    "promote_u8_u8",
    "promote_i32_i32",
    "promote_i64_i64",
    "promote_f16_f16",
    "promote_bf16_bf16",
    "promote_f32_f32",
    "promote_f64_f64",
    // Not of dtypes: of kinds of index.
    "index_mixed",
];

#[test]
fn operations_are_pytorchs() {
    Suite {
        file: "ops.safetensors",
        ops: &[
            // Before the tables' rows, whose names some of them have.
            elementwise::OTHERS,
            elementwise::UNARY,
            elementwise::BINARY,
            reducing::REDUCTIONS,
            reducing::OTHERS,
            indexing::LISTS,
            indexing::OTHERS,
            shaping::VIEWS,
            shaping::PRODUCTS,
            shaping::CREATION,
        ],
        absent: &[],
        refused: REFUSED,
        different: &[],
        accepted: ACCEPTED,
    }
    .run();
}

#[test]
fn numbers_are_pytorchs() {
    Suite {
        file: "numbers.safetensors",
        ops: &[elementwise::OTHERS, elementwise::UNARY, elementwise::BINARY],
        absent: &[],
        refused: &[],
        different: &[],
        accepted: &[],
    }
    .run();
}
