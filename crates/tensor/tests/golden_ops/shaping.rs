//! Golden calls: views, products and constructors.

use kiln_tensor::{DType, Scalar, Tensor, TensorOptions, WindowFunction};

use crate::{common::args::Args, suite::lacks};

/// A number that is an argument, or an input tensor's only element.
fn number(a: &Args, name: &str, x: &[Tensor]) -> Option<i64> {
    a.tensor(name, x).map(|tensor| tensor.item::<i64>().unwrap()).or_else(|| a.scalar(name).map(Scalar::to_i64))
}

/// Dtype of a constructor.
fn options(a: &Args) -> TensorOptions {
    let default = TensorOptions::new();
    a.dtype("dtype").map_or(default, |dtype| default.dtype(dtype))
}

/// Dtype of a constructor that makes a tensor like another.
fn options_like(x: &Tensor, a: &Args) -> TensorOptions {
    x.options().dtype(a.dtype("dtype").unwrap_or(x.dtype()))
}

/// A tensor without elements of the dtype of a constructor that makes a tensor for another.
fn like(x: &Tensor, a: &Args) -> Tensor {
    Tensor::zeros([0], options_like(x, a)).unwrap()
}

/// The dtype of a constructor of integers.
fn integers(a: &Args) -> TensorOptions {
    TensorOptions::new().dtype(a.dtype("dtype").unwrap_or(DType::I64))
}

/// The shape to make: `input` in OpInfo's samples.
fn size(a: &Args) -> Vec<i64> {
    if a.get("size").is_some() { a.sizes("size") } else { a.sizes("input") }
}

/// A window function; OpInfo names the number of values the input.
fn window(a: &Args, function: WindowFunction) -> kiln_tensor::Result<Tensor> {
    let sym = a.get("sym").is_none_or(|sym| sym.as_bool() == Some(true));
    Tensor::window(&function, a.size("input").unwrap(), sym, options(a))
}

table! {
    bartlett => |_x, a| window(a, WindowFunction::Bartlett)?;
    blackman => |_x, a| window(a, WindowFunction::Blackman)?;
    cosine => |_x, a| window(a, WindowFunction::Cosine)?;
    exponential => |_x, a| {
        a.get("center");
        window(a, WindowFunction::Exponential { tau: a.float("tau").unwrap_or(1.0) })?
    };
    gaussian => |_x, a| window(a, WindowFunction::Gaussian { std: a.float("std").unwrap_or(1.0) })?;
    general_cosine => |_x, a| {
        let factors = a.get("a").unwrap().as_array().unwrap();
        window(a, WindowFunction::GeneralCosine(factors.iter().map(|factor| factor.as_f64().unwrap()).collect()))?
    };
    general_hamming => |_x, a| window(a, WindowFunction::GeneralHamming { alpha: a.float("alpha").unwrap_or(0.54) })?;
    hamming => |_x, a| window(a, WindowFunction::Hamming)?;
    hann => |_x, a| window(a, WindowFunction::Hann)?;
    kaiser => |_x, a| window(a, WindowFunction::Kaiser { beta: a.float("beta").unwrap_or(12.0) })?;
    nuttall => |_x, a| window(a, WindowFunction::Nuttall)?;

    reshape => |x, a| x[0].reshape(a.sizes("shape"))?;
    reshape_as => |x, _a| x[0].reshape(x[1].dims())?;
    transpose_reshape => |x, a| {
        x[0].transpose(a.int("dim0").unwrap(), a.int("dim1").unwrap())?.reshape(a.sizes("shape"))?
    };
    view => |x, a| match a.dtype("shape") {
        Some(_) => return Err(lacks("a view as another dtype")),
        None => x[0].view(a.sizes("shape"))?,
    };
    view_as => |x, _a| x[0].view_as(&x[1])?;
    flatten => |x, a| x[0].flatten(a.int("start_dim").unwrap_or(0), a.int("end_dim").unwrap_or(-1))?;
    unflatten => |x, a| x[0].unflatten(a.int("dim").unwrap(), a.sizes("sizes"))?;
    transpose => |x, a| x[0].transpose(a.int("dim0").unwrap(), a.int("dim1").unwrap())?;
    t => |x, _a| x[0].t()?;
    T => |x, _a| x[0].permute((0..x[0].rank()).rev().collect::<Vec<_>>())?;
    mT => |x, _a| x[0].mt()?;
    permute => |x, a| x[0].permute(a.ints("dims"))?;
    movedim => |x, a| x[0].movedim(a.ints("source"), a.ints("destination"))?;
    squeeze => |x, a| match a.get("dim") {
        None => x[0].squeeze(())?,
        Some(_) => x[0].squeeze(&a.ints("dim")[..])?,
    };
    unsqueeze => |x, a| x[0].unsqueeze(a.int("dim").unwrap())?;
    expand => |x, a| x[0].expand(a.sizes("size"))?;
    expand_as => |x, _a| x[0].expand_as(&x[1])?;
    broadcast_to => |x, a| x[0].expand(a.sizes("size"))?;
    narrow => |x, a| {
        let dim = a.int("dim").unwrap();
        let start = number(a, "start", x).unwrap();
        let extent = x[0].dims()[if dim < 0 { dim + x[0].rank() as i64 } else { dim } as usize] as i64;
        // In PyTorch, a negative start counts from the end.
        x[0].narrow(dim, if start < 0 { start + extent } else { start } as usize, a.size("length").unwrap())?
    };
    select => |x, a| x[0].select(a.int("dim").unwrap(), a.int("index").unwrap())?;
    slice => |x, a| {
        let (start, end) = (a.int("start").unwrap_or(0), a.int("end").unwrap_or(i64::MAX));
        x[0].slice(a.int("dim").unwrap_or(0), start, end, a.size("step").unwrap_or(1))?
    };

    matmul => |x, _a| x[0].matmul(&x[1])?;
    rmatmul => |x, _a| x[1].matmul(&x[0])?;
    matmul_self_t => |x, _a| x[0].matmul(&x[0].t()?)?;
    mm => |x, _a| x[0].mm(&x[1])?;
    bmm => |x, _a| x[0].bmm(&x[1])?;
    mv => |x, _a| x[0].mv(&x[1])?;
    dot => |x, _a| x[0].dot(&x[1])?;
    outer => |x, _a| x[0].outer(&x[1])?;
    einsum => |x, a| Tensor::einsum(a.text("equation").unwrap(), x)?;
    linear => |x, a| x[0].linear(&x[1], a.tensor("bias", x).or(x.get(2)))?;

    eye => |_x, a| match (a.int("n").or(a.int("input")), a.int("m")) {
        (n, None) => Tensor::eye(n.unwrap(), options(a))?,
        (n, Some(m)) => Tensor::eye([n.unwrap(), m], options(a))?,
    };
    arange => |_x, a| {
        // One number alone is the end, also where OpInfo calls it the input.
        let (input, start, end) = (a.scalar("input"), a.scalar("start"), a.scalar("end"));
        let (start, end) = if end.is_some() { (start.or(input), end) } else { (start, input) };
        let step = a.scalar("step").unwrap_or(Scalar::Int(1));
        Tensor::arange_step(start.unwrap_or(Scalar::Int(0)), end.unwrap(), step, options(a))?
    };
    logspace => |x, a| {
        let value = |tensor: &Tensor| tensor.item::<f64>().unwrap();
        let bound = |name: &str| a.tensor(name, x).map(value).or_else(|| a.float(name));
        let start = bound("start").or_else(|| bound("input")).unwrap_or_else(|| value(&x[0]));
        let end = bound("end").unwrap();
        Tensor::logspace(start, end, a.size("steps").unwrap(), a.float("base").unwrap_or(10.0), options(a))?
    };
    linspace => |x, a| {
        let start = a.operand("start", x).or(a.operand("input", x)).or(x.first().map(Into::into)).unwrap();
        let end = a.operand("end", x).unwrap();
        Tensor::linspace(start, end, a.size("steps").unwrap(), options(a))?
    };
    new_zeros => |x, a| like(&x[0], a).new_zeros(a.sizes("size"))?;
    new_ones => |x, a| like(&x[0], a).new_ones(a.sizes("size"))?;
    new_full => |x, a| like(&x[0], a).new_full(a.sizes("size"), a.scalar("fill_value").unwrap())?;
    tril_indices => |_x, a| {
        let (rows, columns) = (a.size("input").unwrap(), a.size("col").unwrap());
        Tensor::tril_indices(rows, columns, a.int("offset").unwrap_or(0), integers(a))?
    };
    triu_indices => |_x, a| {
        let (rows, columns) = (a.size("input").unwrap(), a.size("col").unwrap());
        Tensor::triu_indices(rows, columns, a.int("offset").unwrap_or(0), integers(a))?
    };
    vdot => |x, _a| x[0].dot(&x[1])?;
    argwhere => |x, _a| x[0].nonzero()?;
    positive => |x, _a| x[0].clone();
    sgn => |x, _a| x[0].sign()?;
    unsafe_chunk => |x, a| x[0].chunk(a.size("chunks").unwrap(), a.int("dim").unwrap_or(0))?;
    full => |_x, a| {
        let value = a.scalar("fill_value").unwrap();
        let full = Tensor::full(size(a), value, a.dtype("dtype").map_or(options(a), |dtype| options(a).dtype(dtype)))?;
        // As with all constructors of Kiln the dtype is f32 unless it is named.
        match (a.dtype("dtype"), value) {
            (Some(_), _) | (_, Scalar::Float(_)) => full,
            (_, Scalar::Int(_)) => full.to_dtype(DType::I64)?,
            (_, Scalar::Bool(_)) => full.to_dtype(DType::Bool)?,
        }
    };
    ones => |_x, a| Tensor::ones(size(a), options(a))?;
    zeros => |_x, a| Tensor::zeros(size(a), options(a))?;
    ones_like => |x, a| Tensor::ones(x[0].shape(), options_like(&x[0], a))?;
    zeros_like => |x, a| Tensor::zeros(x[0].shape(), options_like(&x[0], a))?;
    full_like => |x, a| Tensor::full(x[0].shape(), a.scalar("fill_value").unwrap(), options_like(&x[0], a))?;
}
