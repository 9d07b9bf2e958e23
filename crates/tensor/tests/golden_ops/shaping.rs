//! Views and products.

use kiln_tensor::{Tensor, TensorOptions};

use crate::common::{args::Args, suite::Op};

macro_rules! ops {
    ($($name:literal => |$x:ident, $a:ident| $call:expr;)*) => {
        &[$(($name, |$x, $a| { let _ = (&$x, $a); Ok(vec![$call]) }),)*]
    };
}

pub const VIEWS: &[(&str, Op)] = ops! {
    "reshape" => |x, a| x[0].reshape(a.sizes("shape"))?;
    "transpose_reshape" => |x, a| {
        x[0].transpose(a.int("dim0").unwrap(), a.int("dim1").unwrap())?.reshape(a.sizes("shape"))?
    };
    "flatten" => |x, a| x[0].flatten(a.int("start_dim").unwrap_or(0), a.int("end_dim").unwrap_or(-1))?;
    "transpose" => |x, a| x[0].transpose(a.int("dim0").unwrap(), a.int("dim1").unwrap())?;
    "t" => |x, a| x[0].t()?;
    "permute" => |x, a| x[0].permute(a.ints("dims"))?;
    "squeeze" => |x, a| x[0].squeeze(&a.ints("dim")[..])?;
    "unsqueeze" => |x, a| x[0].unsqueeze(a.int("dim").unwrap())?;
    "expand" => |x, a| x[0].expand(a.sizes("size"))?;
    "broadcast_to" => |x, a| x[0].expand(a.sizes("size"))?;
    "narrow" => |x, a| {
        x[0].narrow(a.int("dim").unwrap(), a.int("start").unwrap() as usize, a.int("length").unwrap() as usize)?
    };
    "select" => |x, a| x[0].select(a.int("dim").unwrap(), a.int("index").unwrap())?;
};

pub const PRODUCTS: &[(&str, Op)] = ops! {
    "matmul" => |x, a| x[0].matmul(&x[1])?;
    "matmul_self_t" => |x, a| x[0].matmul(&x[0].t()?)?;
    "mm" => |x, a| x[0].mm(&x[1])?;
    "bmm" => |x, a| x[0].bmm(&x[1])?;
    "mv" => |x, a| x[0].mv(&x[1])?;
    "dot" => |x, a| x[0].dot(&x[1])?;
    "outer" => |x, a| x[0].outer(&x[1])?;
    "einsum" => |x, a| Tensor::einsum(a.text("equation").unwrap(), x)?;
    "linear" => |x, a| x[0].linear(&x[1], x.get(2))?;
};

fn options(a: &Args) -> TensorOptions {
    let default = TensorOptions::new();
    a.dtype("dtype").map_or(default, |dtype| default.dtype(dtype))
}

pub const CREATION: &[(&str, Op)] = ops! {
    "eye" => |x, a| match a.int("m") {
        None => Tensor::eye(a.int("n").unwrap(), options(a))?,
        Some(m) => Tensor::eye([a.int("n").unwrap(), m], options(a))?,
    };
    "arange" => |x, a| {
        let start = a.scalar("start").unwrap_or(kiln_tensor::Scalar::Int(0));
        let step = a.scalar("step").unwrap_or(kiln_tensor::Scalar::Int(1));
        Tensor::arange_step(start, a.scalar("end").unwrap(), step, options(a))?
    };
    "linspace" => |x, a| {
        let dtype = a.dtype("dtype").unwrap_or(kiln_tensor::DType::F32);
        Tensor::linspace(a.float("start").unwrap(), a.float("end").unwrap(), a.int("steps").unwrap() as usize, dtype)?
    };
    "full" => |x, a| {
        let value = a.scalar("fill_value").unwrap();
        let full = Tensor::full(a.sizes("size"), value, kiln_tensor::Device::Cpu)?;
        // As with all constructors of Kiln the dtype is f32 unless it is named.
        match value {
            kiln_tensor::Scalar::Float(_) => full,
            kiln_tensor::Scalar::Int(_) => full.to_dtype(kiln_tensor::DType::I64)?,
            kiln_tensor::Scalar::Bool(_) => full.to_dtype(kiln_tensor::DType::Bool)?,
        }
    };
};
