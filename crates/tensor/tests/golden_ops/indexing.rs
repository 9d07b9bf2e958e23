//! Joining, splitting, indexing and rearranging.

use kiln_tensor::{At, Rhs, Tensor};
use serde_json::Value;

use crate::common::{args::Args, suite::Op};

macro_rules! ops {
    ($($name:literal => |$x:ident, $a:ident| $call:expr;)*) => {
        &[$(($name, |$x, $a| { let _ = $a; Ok(vec![$call]) }),)*]
    };
}

fn dim(a: &Args) -> i64 {
    a.int("dim").unwrap()
}

/// The index tensor.
fn index<'a>(x: &'a [Tensor], a: &Args) -> &'a Tensor {
    a.tensor("index", x).unwrap()
}

/// `src` as a tensor, or `value` as a number.
fn source(x: &[Tensor], a: &Args) -> Rhs {
    a.scalar("value").map_or_else(|| Rhs::from(a.tensor("src", x).unwrap()), Rhs::from)
}

/// Items of an index as the golden files write them: numbers, `[start, stop, step]`, null and "...".
fn items(a: &Args) -> Vec<At> {
    let item = |item: &Value| match item {
        Value::Null => At::NewAxis,
        Value::String(_) => At::Ellipsis,
        Value::Array(slice) => At::Slice {
            start: slice[0].as_i64(),
            end: slice[1].as_i64(),
            step: slice[2].as_u64().unwrap_or(1) as usize,
        },
        number => At::Select(number.as_i64().unwrap()),
    };
    a.get("index").unwrap().as_array().unwrap().iter().map(item).collect()
}

pub const LISTS: &[(&str, Op)] = &[
    ("chunk", |x, a| x[0].chunk(a.int("chunks").unwrap() as usize, dim(a))),
    ("split", |x, a| match a.get("split_size_or_sections") {
        Some(Value::Array(_)) => {
            let sizes: Vec<usize> = a.ints("split_size_or_sections").into_iter().map(|size| size as usize).collect();
            x[0].split(&sizes[..], dim(a))
        }
        _ => x[0].split(a.int("split_size_or_sections").unwrap() as usize, dim(a)),
    }),
];

pub const OTHERS: &[(&str, Op)] = ops! {
    "cat" => |x, a| Tensor::cat(x, dim(a))?;
    "stack" => |x, a| Tensor::stack(x, dim(a))?;
    "index" => |x, a| x[0].i(&items(a)[..])?;
    "flip" => |x, a| x[0].flip(&a.ints("dims")[..])?;
    "roll" => |x, a| x[0].roll(a.ints("shifts"), a.ints("dims"))?;
    "repeat" => |x, a| x[0].repeat(a.ints("sizes"))?;
    "tril" => |x, a| x[0].tril(a.int("diagonal").unwrap_or(0))?;
    "triu" => |x, a| x[0].triu(a.int("diagonal").unwrap_or(0))?;
    "diag" => |x, a| x[0].diag(a.int("diagonal").unwrap_or(0))?;
    "index_select" => |x, a| x[0].index_select(dim(a), index(x, a))?;
    "gather" => |x, a| x[0].gather(dim(a), index(x, a))?;
    "scatter" => |x, a| x[0].scatter(dim(a), index(x, a), source(x, a))?;
    "scatter_add" => |x, a| x[0].scatter_add(dim(a), index(x, a), a.tensor("src", x).unwrap())?;
    "masked_select" => |x, a| x[0].masked_select(a.tensor("mask", x).unwrap())?;
    "one_hot" => |x, a| x[0].one_hot(a.int("num_classes").unwrap_or(-1))?;
};
