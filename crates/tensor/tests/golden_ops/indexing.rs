//! Golden calls: joining, splitting, indexing and rearranging.

use kiln_tensor::{At, DType, Result, Rhs, Tensor};
use serde_json::Value;

use crate::{
    common::args::{self, Args},
    suite::{Miss, lacks},
};

fn dim(a: &Args) -> i64 {
    a.int("dim").unwrap_or(0)
}

/// The index tensor.
fn index<'a>(x: &'a [Tensor], a: &Args) -> &'a Tensor {
    a.tensor("index", x).unwrap()
}

/// `src` as a tensor, or a number by either name.
fn source(x: &[Tensor], a: &Args) -> Rhs {
    a.operand("value", x).or_else(|| a.operand("src", x)).unwrap()
}

/// Items of an index: numbers, `[start, stop, step]` or `{"slice": …}`, null, "...", tensors, and lists of numbers or
/// truth values as `{"list": …}`.
fn items(a: &Args, x: &[Tensor], name: &str) -> Result<Vec<At>, Miss> {
    let slice = |slice: &[Value]| At::Slice {
        start: slice[0].as_i64(),
        end: slice[1].as_i64(),
        step: slice[2].as_u64().unwrap_or(1) as usize,
    };
    let item = |item: &Value| {
        Ok(match item {
            Value::Null => At::NewAxis,
            Value::String(text) => match args::input(text) {
                Some(i) => At::List(x[i].clone()),
                None => At::Ellipsis,
            },
            Value::Object(item) if item.contains_key("slice") => slice(item["slice"].as_array().unwrap()),
            Value::Array(values) => slice(values),
            Value::Object(item) => {
                let values = item["list"].as_array().unwrap();
                let flags: Option<Vec<bool>> = values.iter().map(Value::as_bool).collect();
                match flags {
                    Some(flags) if !flags.is_empty() => At::List(Tensor::new(flags, x[0].device())?),
                    _ => {
                        let numbers: Option<Vec<i64>> = values.iter().map(Value::as_i64).collect();
                        At::List(Tensor::new(numbers.ok_or_else(|| lacks("a nested list as index"))?, x[0].device())?)
                    }
                }
            }
            Value::Bool(_) => return Err(lacks("a truth value as index")),
            number => At::Select(number.as_i64().unwrap()),
        })
    };
    match a.get(name) {
        Some(Value::Object(object)) if object.contains_key("tuple") => {
            object["tuple"].as_array().unwrap().iter().map(item).collect()
        }
        Some(Value::Array(values)) => values.iter().map(item).collect(),
        Some(value) => Ok(vec![item(value)?]),
        None => Ok(vec![At::NewAxis]),
    }
}

fn split(x: &Tensor, a: &Args, name: &str) -> Result<Vec<Tensor>> {
    match a.get(name) {
        Some(Value::Array(_)) => {
            let sizes: Vec<usize> = a.ints(name).into_iter().map(|size| size as usize).collect();
            x.split(&sizes[..], dim(a))
        }
        _ => x.split(a.size(name).unwrap(), dim(a)),
    }
}

/// A shape that is an argument, or the first one.
fn shape(a: &Args, name: &str) -> Vec<i64> {
    a.sizes(name)
}

table! {
    chunk => |x, a| x[0].chunk(a.size("chunks").unwrap(), dim(a))?;
    split => |x, a| split(&x[0], a, "split_size_or_sections")?;
    split_with_sizes => |x, a| split(&x[0], a, "split_sizes")?;
    unbind => |x, a| x[0].unbind(dim(a))?;
    meshgrid => |x, a| if a.text("indexing") == Some("xy") { Tensor::meshgrid_xy(x)? } else { Tensor::meshgrid(x)? };

    cat => |x, a| Tensor::cat(x, dim(a))?;
    stack => |x, a| Tensor::stack(x, dim(a))?;
    index => |x, a| x[0].i(&items(a, x, "index")?[..])?;
    getitem => |x, a| x[0].i(&items(a, x, "index")?[..])?;
    index_put => |x, a| {
        let (index, values) = (items(a, x, "indices")?, a.operand("values", x).unwrap());
        x[0].index_put(&index[..], values, a.flag("accumulate"))?
    };
    flip => |x, a| x[0].flip(&a.ints("dims")[..])?;
    roll => |x, a| x[0].roll(a.ints("shifts"), a.ints("dims"))?;
    repeat => |x, a| x[0].repeat(shape(a, "sizes"))?;
    repeat_interleave => |x, a| {
        a.get("output_size");
        let counts = a.operand("repeats", x).unwrap();
        match (counts, a.int("dim")) {
            (Rhs::Tensor(counts), Some(dim)) => x[0].repeat_interleave(&counts, dim)?,
            (Rhs::Tensor(counts), None) => x[0].repeat_interleave(&counts, ())?,
            (Rhs::Scalar(count), Some(dim)) => x[0].repeat_interleave(count.to_i64() as usize, dim)?,
            (Rhs::Scalar(count), None) => x[0].repeat_interleave(count.to_i64() as usize, ())?,
        }
    };
    tril => |x, a| x[0].tril(a.int("diagonal").unwrap_or(0))?;
    triu => |x, a| x[0].triu(a.int("diagonal").unwrap_or(0))?;
    diag => |x, a| x[0].diag(a.int("diagonal").unwrap_or(0))?;
    diagonal => |x, a| {
        x[0].diagonal(a.int("offset").unwrap_or(0), a.int("dim1").unwrap_or(0), a.int("dim2").unwrap_or(1))?
    };
    trace => |x, _a| x[0].trace()?;
    index_select => |x, a| x[0].index_select(dim(a), index(x, a))?;
    gather => |x, a| {
        a.get("sparse_grad");
        x[0].gather(dim(a), index(x, a))?
    };
    take_along_dim => |x, a| match a.int("dim") {
        Some(dim) => x[0].take_along_dim(&x[1], dim)?,
        None => x[0].take_along_dim(&x[1], ())?,
    };
    scatter => |x, a| match (a.text("reduce"), source(x, a)) {
        (Some("add"), Rhs::Tensor(source)) => x[0].scatter_add(dim(a), index(x, a), &source)?,
        (Some(_), _) => return Err(lacks("reduce (deprecated in PyTorch)")),
        (None, source) => x[0].scatter(dim(a), index(x, a), source)?,
    };
    scatter_add => |x, a| x[0].scatter_add(dim(a), index(x, a), a.tensor("src", x).unwrap())?;
    index_add => |x, a| {
        let source = a.tensor("source", x).unwrap();
        match a.scalar("alpha") {
            Some(alpha) => x[0].index_add_alpha(dim(a), index(x, a), source, alpha)?,
            None => x[0].index_add(dim(a), index(x, a), source)?,
        }
    };
    masked_select => |x, a| x[0].masked_select(a.tensor("mask", x).unwrap())?;
    nonzero => |x, a| match a.flag("as_tuple") {
        // As a tuple, PyTorch takes a scalar as a vector.
        true if x[0].rank() == 0 => x[0].reshape([1])?.nonzero()?.unbind(1)?,
        true => x[0].nonzero()?.unbind(1)?,
        false => vec![x[0].nonzero()?],
    };
    searchsorted => |x, a| {
        let right = a.flag("right") || a.text("side") == Some("right");
        let values = a.operand("values", x).unwrap();
        let places = match a.tensor("sorter", x) {
            Some(sorter) => x[0].searchsorted_with(sorter, values, right)?,
            None => x[0].searchsorted(values, right)?,
        };
        if a.flag("out_int32") { places.to_dtype(DType::I32)? } else { places }
    };
    one_hot => |x, a| x[0].one_hot(a.int("num_classes").unwrap_or(-1))?;
}
