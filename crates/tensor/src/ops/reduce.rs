//! Reductions of dimensions to one value each.

use kiln_backend::{DType, Dims, Error, MAX_RANK, ReduceOp, Result, Shape};
use kiln_derive::located;

use super::check;
use crate::{
    Tensor,
    autograd::{one, record},
};

/// Which dimensions are reduced, and the shapes before, in between and after.
struct Plan {
    mask: [bool; MAX_RANK],
    /// The input's shape with 1 for every reduced dimension.
    kept: Shape,
    /// The result's shape.
    out: Shape,
    /// How many elements become one.
    count: usize,
    /// Whether the caller named no dimension, which means all: PyTorch has nodes of their own for that.
    whole: bool,
}

impl Plan {
    fn new(op: &'static str, x: &Tensor, dims: &impl Dims, keepdim: bool) -> Result<Plan> {
        let mask = dims.resolve(op, x.rank())?;
        let (mut kept, mut out, mut rank, mut count) = ([1; MAX_RANK], [1; MAX_RANK], 0, 1);
        for (dim, &extent) in x.dims().iter().enumerate() {
            if mask[dim] {
                count *= extent;
            } else {
                kept[dim] = extent;
            }
            if keepdim || !mask[dim] {
                out[rank] = kept[dim];
                rank += 1;
            }
        }
        Ok(Plan {
            mask,
            kept: Shape::new(&kept[..x.rank()])?,
            out: Shape::new(&out[..rank])?,
            count,
            whole: dims.names_none() && !keepdim,
        })
    }

    /// For exporters: by the shape with all dimensions, and the result's.
    fn described(&self, out: Tensor, op: &'static str) -> Tensor {
        let dims = || (0..self.kept.rank()).filter(|&dim| self.mask[dim]).collect::<Vec<_>>();
        let keepdim = self.out == self.kept;
        out.described(op, || [("dims", (&dims()[..]).into()), ("keepdim", keepdim.into())])
    }
}

/// The result of a reduction of `dtype`.
fn result_dtype(op: ReduceOp, dtype: DType) -> DType {
    match op {
        ReduceOp::Any | ReduceOp::All => DType::Bool,
        ReduceOp::Sum | ReduceOp::Prod if !dtype.is_float() => DType::I64,
        _ => dtype,
    }
}

macro_rules! pair {
    ($($(#[$doc:meta])* $name:ident $keepdim:ident ($($arg:ident: $ty:ty),*) $body:ident;)*) => {
        #[located]
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// `dims` is `()` for all dimensions, one dimension, or an array of them; they are dropped.
            ///
            /// # Errors
            /// A dimension is out of range or named twice, or the dtype is not supported.
            pub fn $name(&self, dims: impl Dims $(, $arg: $ty)*) -> Result<Tensor> {
                self.$body(stringify!($name), dims, false $(, $arg)*)
            }

            #[doc = concat!("[`", stringify!($name), "`](Tensor::", stringify!($name), ") that keeps the dimensions with extent 1.")]
            ///
            /// # Errors
            /// A dimension is out of range or named twice, or the dtype is not supported.
            pub fn $keepdim(&self, dims: impl Dims $(, $arg: $ty)*) -> Result<Tensor> {
                self.$body(stringify!($name), dims, true $(, $arg)*)
            }
        )*}
    };
}

pair! {
    /// Sum; integers and `bool` give `i64`.
    sum sum_keepdim () sum_impl;
    /// Arithmetic mean of floats.
    mean mean_keepdim () mean_impl;
    /// Product; integers and `bool` give `i64`.
    prod prod_keepdim () prod_impl;
    /// The largest value, NaN if there is one; equal ones share the gradient evenly. Where it stands, too,
    /// gives [`max_dim`](Tensor::max_dim).
    max max_keepdim () max_impl;
    /// The smallest value, NaN if there is one; equal ones share the gradient evenly. Where it stands, too,
    /// gives [`min_dim`](Tensor::min_dim).
    min min_keepdim () min_impl;
    /// The largest value; equal ones share the gradient evenly.
    amax amax_keepdim () amax_impl;
    /// The smallest value; equal ones share the gradient evenly.
    amin amin_keepdim () amin_impl;
    /// Whether any element is not zero.
    any any_keepdim () any_impl;
    /// Whether all elements are not zero.
    all all_keepdim () all_impl;
    /// Variance, divided by `n - correction` (1 is Bessel's correction, PyTorch's default).
    var var_keepdim (correction: f64) var_impl;
    /// Standard deviation: the square root of [`var`](Tensor::var).
    std std_keepdim (correction: f64) std_impl;
    /// `log(sum(exp(x)))` without overflow.
    logsumexp logsumexp_keepdim () logsumexp_impl;
}

#[located]
impl Tensor {
    fn reduce(&self, op: ReduceOp, plan: &Plan) -> Result<Tensor> {
        let reading = self.read();
        let out = Tensor::compute(self.device(), result_dtype(op, self.dtype()), plan.kept, |backend, out| {
            backend.reduce(op, reading.view(), out)
        })?;
        if plan.out == plan.kept {
            Ok(out)
        } else {
            Ok(Tensor::from_storage(out.0.storage.clone(), kiln_backend::Layout::contiguous(plan.out)))
        }
    }

    fn sum_impl(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        let plan = Plan::new(name, self, &dims, keepdim)?;
        let node = if plan.whole { "SumBackward0" } else { "SumBackward1" };
        let (own, kept) = (*self.shape(), plan.kept);
        let out = record(self.reduce(ReduceOp::Sum, &plan)?, node, &[self], &[], move |ctx| {
            Ok(one(ctx.grad()?.reshape(kept)?.expand(own)?))
        })?;
        Ok(plan.described(out, "sum"))
    }

    fn mean_impl(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        check::floats(name, self)?;
        let plan = Plan::new(name, self, &dims, keepdim)?;
        let node = if plan.whole { "MeanBackward0" } else { "MeanBackward1" };
        let (own, kept, count) = (*self.shape(), plan.kept, plan.count as f64);
        let out = record(self.reduce(ReduceOp::Mean, &plan)?, node, &[self], &[], move |ctx| {
            let grad = ctx.grad()?;
            // Half precision has no number for a large count.
            let share = grad.widened()?.div(count)?.to_dtype(grad.dtype())?;
            Ok(one(share.reshape(kept)?.expand(own)?))
        })?;
        Ok(plan.described(out, "mean"))
    }

    fn any_impl(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        self.reduce(ReduceOp::Any, &Plan::new(name, self, &dims, keepdim)?)
    }

    fn all_impl(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        self.reduce(ReduceOp::All, &Plan::new(name, self, &dims, keepdim)?)
    }

    fn max_impl(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        self.extreme(name, "MaxBackward1", ReduceOp::Max, &dims, keepdim)
    }

    fn min_impl(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        self.extreme(name, "MinBackward1", ReduceOp::Min, &dims, keepdim)
    }

    fn amax_impl(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        self.extreme(name, "AmaxBackward0", ReduceOp::Max, &dims, keepdim)
    }

    fn amin_impl(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        self.extreme(name, "AminBackward0", ReduceOp::Min, &dims, keepdim)
    }

    fn extreme(
        &self,
        name: &'static str,
        node: &'static str,
        op: ReduceOp,
        dims: &impl Dims,
        keepdim: bool,
    ) -> Result<Tensor> {
        let plan = Plan::new(name, self, dims, keepdim)?;
        if plan.count == 0 && plan.kept.numel() > 0 {
            return Err(Error::shape(name, "dimensions that are not empty", self.shape()));
        }
        let out = self.reduce(op, &plan)?;
        let kept = plan.kept;
        record(out.clone(), node, &[self], &[self, &out], move |ctx| {
            let (x, y) = (ctx.saved(0)?, ctx.saved(1)?.reshape(kept)?);
            // NaN is the result if there is one, and is equal to nothing.
            let hits = x.eq(&y)?.logical_or(x.ne(&x)?.logical_and(&y.ne(&y)?)?)?;
            let grad = ctx.grad()?.reshape(kept)?.widened()?;
            // An `i64`: half precision has no number for a large count.
            let share = grad.div(&hits.sum_to(&kept)?.to_dtype(grad.dtype())?)?.to_dtype(x.dtype())?;
            Ok(one(hits.to_dtype(x.dtype())?.mul(&share)?))
        })
    }

    fn prod_impl(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        let plan = Plan::new(name, self, &dims, keepdim)?;
        let node = if plan.whole { "ProdBackward0" } else { "ProdBackward1" };
        let (kept, mask) = (plan.kept, plan.mask);
        record(self.reduce(ReduceOp::Prod, &plan)?, node, &[self], &[self], move |ctx| {
            let x = ctx.saved(0)?;
            let grad = ctx.grad()?.reshape(kept)?.expand(x.shape())?;
            Ok(one(grad.mul(&product_of_others(&x, &mask)?)?))
        })
    }

    fn var_impl(&self, name: &'static str, dims: impl Dims, keepdim: bool, correction: f64) -> Result<Tensor> {
        check::floats(name, self)?;
        let plan = Plan::new(name, self, &dims, keepdim)?;
        let (kept, divisor) = (plan.kept, (plan.count as f64 - correction).max(0.0));
        let (rank, mask) = (self.rank(), plan.mask);
        record(self.reduce(ReduceOp::Var { correction }, &plan)?, "VarBackward0", &[self], &[self], move |ctx| {
            let (x, grad) = (ctx.saved(0)?.widened()?, ctx.grad()?);
            let centered = x.sub(&x.mean_keepdim(&dims_of(&mask, rank)[..])?)?;
            let slope = grad.reshape(kept)?.widened()?.mul(2.0 / divisor)?;
            Ok(one(centered.mul(&slope)?.to_dtype(grad.dtype())?))
        })
    }

    fn std_impl(&self, name: &'static str, dims: impl Dims, keepdim: bool, correction: f64) -> Result<Tensor> {
        check::floats(name, self)?;
        let plan = Plan::new(name, self, &dims, keepdim)?;
        let (kept, divisor) = (plan.kept, (plan.count as f64 - correction).max(0.0));
        let (rank, mask) = (self.rank(), plan.mask);
        let out = crate::no_grad(|| self.reduce(ReduceOp::Var { correction }, &plan)?.sqrt())?;
        record(out.clone(), "StdBackward0", &[self], &[self, &out], move |ctx| {
            let (x, std, grad) = (ctx.saved(0)?.widened()?, ctx.saved(1)?.reshape(kept)?.widened()?, ctx.grad()?);
            let centered = x.sub(&x.mean_keepdim(&dims_of(&mask, rank)[..])?)?;
            // Where the deviation is 0 the slope is taken as 0, as PyTorch does.
            let slope = grad.reshape(kept)?.widened()?.div(&std.mul(divisor)?)?;
            Ok(one(centered.mul(&slope.keep_where(&std.ne(0.0)?)?)?.to_dtype(grad.dtype())?))
        })
    }

    fn logsumexp_impl(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        check::floats(name, self)?;
        let plan = Plan::new(name, self, &dims, keepdim)?;
        let (out, kept) = (self.reduce(ReduceOp::LogSumExp, &plan)?, plan.kept);
        record(out.clone(), "LogsumexpBackward0", &[self], &[self, &out], move |ctx| {
            let (x, y) = (ctx.saved(0)?, ctx.saved(1)?.reshape(kept)?);
            Ok(one(x.sub(&y)?.exp()?.mul(&ctx.grad()?.reshape(kept)?)?))
        })
    }
}

/// The dimensions that a mask names.
fn dims_of(mask: &[bool; MAX_RANK], rank: usize) -> smallvec::SmallVec<[usize; MAX_RANK]> {
    (0..rank).filter(|&dim| mask[dim]).collect()
}

/// For every element the product of the other elements of its group, also where some are 0.
fn product_of_others(x: &Tensor, mask: &[bool; MAX_RANK]) -> Result<Tensor> {
    let dims = dims_of(mask, x.rank());
    let is_zero = x.eq(0)?;
    let nonzero = x.masked_fill(&is_zero, 1)?;
    let product = nonzero.prod_keepdim(&dims[..])?;
    let zeros = is_zero.sum_keepdim(&dims[..])?;
    let at_zero = product.keep_where(&zeros.eq(1)?)?;
    let elsewhere = product.keep_where(&zeros.eq(0)?)?.div(&nonzero)?;
    is_zero.where_cond(&at_zero, &elsewhere)
}
