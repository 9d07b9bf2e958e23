//! Rows of the module tests: padding.

use kiln_nn::{
    CircularPad1d, CircularPad2d, CircularPad3d, ConstantPad1d, ConstantPad2d, ConstantPad3d, ReflectionPad1d,
    ReflectionPad2d, ReflectionPad3d, ReplicationPad1d, ReplicationPad2d, ReplicationPad3d, ZeroPad1d, ZeroPad2d,
    ZeroPad3d,
};

use crate::{
    case::{Case, Row},
    unary_rows,
};

fn sides<const N: usize>(case: &Case<'_>) -> [i64; N] {
    let padding = case.arg("padding").unwrap();
    match padding.as_array() {
        Some(sides) => std::array::from_fn(|i| sides[i].as_i64().unwrap()),
        None => [padding.as_i64().unwrap(); N],
    }
}

pub const ROWS: &[Row] = unary_rows! {
    CircularPad1d |case| CircularPad1d::new(sides(case));
    CircularPad2d |case| CircularPad2d::new(sides(case));
    CircularPad3d |case| CircularPad3d::new(sides(case));
    ConstantPad1d |case| ConstantPad1d::new(sides(case), case.float("value", 0.0));
    ConstantPad2d |case| ConstantPad2d::new(sides(case), case.float("value", 0.0));
    ConstantPad3d |case| ConstantPad3d::new(sides(case), case.float("value", 0.0));
    ReflectionPad1d |case| ReflectionPad1d::new(sides(case));
    ReflectionPad2d |case| ReflectionPad2d::new(sides(case));
    ReflectionPad3d |case| ReflectionPad3d::new(sides(case));
    ReplicationPad1d |case| ReplicationPad1d::new(sides(case));
    ReplicationPad2d |case| ReplicationPad2d::new(sides(case));
    ReplicationPad3d |case| ReplicationPad3d::new(sides(case));
    ZeroPad1d |case| ZeroPad1d::new(sides(case));
    ZeroPad2d |case| ZeroPad2d::new(sides(case));
    ZeroPad3d |case| ZeroPad3d::new(sides(case));
};
