//! Reductions over dimensions: sums, means, products, extrema, `any`, `all`, variance, `logsumexp`.

use kiln_backend::{Arguments, DType, Dims, Error, MAX_RANK, ReduceArgs, ReduceOp, Result, Shape};
use kiln_derive::located;

use super::check;
use crate::{
    autocast::cast_operands,
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

/// Which dimensions are reduced, and the resulting shapes.
struct Plan {
    mask: [bool; MAX_RANK],
    /// The input's shape with 1 for every reduced dimension.
    kept: Shape,
    /// The result's shape.
    out: Shape,
    /// How many elements are reduced to one.
    count: usize,
    /// Whether the caller named no dimension, which means all of them: PyTorch has separate nodes for that.
    whole: bool,
}

impl Plan {
    fn new(op: &'static str, x: &Tensor, dims: &impl Dims, keepdim: bool) -> Result<Plan> {
        Plan::of(dims.resolve(op, x.rank())?, x, dims.names_none(), keepdim)
    }

    /// As [`Plan::new`], except that an empty list reduces no dimension; `()` still reduces all of them.
    fn listed(op: &'static str, x: &Tensor, dims: &impl Dims, keepdim: bool) -> Result<Plan> {
        Plan::of(dims.resolve_listed(op, x.rank())?, x, dims.names_none(), keepdim)
    }

    fn of(mask: [bool; MAX_RANK], x: &Tensor, names_none: bool, keepdim: bool) -> Result<Plan> {
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
            whole: names_none && !keepdim,
        })
    }

    /// For exporters: described by the shape with all dimensions, and the result's.
    fn described(&self, out: Tensor, op: &'static str) -> Tensor {
        let dims = || (0..self.kept.rank()).filter(|&dim| self.mask[dim]).collect::<Vec<_>>();
        let keepdim = self.out == self.kept;
        out.described(op, || [("dims", (&dims()[..]).into()), ("keepdim", keepdim.into())])
    }

    /// [`described`](Plan::described) with the correction that is subtracted from the count of elements.
    fn described_spread(&self, out: Tensor, op: &'static str, correction: f64) -> Tensor {
        let dims = || (0..self.kept.rank()).filter(|&dim| self.mask[dim]).collect::<Vec<_>>();
        let keepdim = self.out == self.kept;
        out.described(op, || {
            [("dims", (&dims()[..]).into()), ("keepdim", keepdim.into()), ("correction", correction.into())]
        })
    }

    /// [`described`](Plan::described) for a reduction that the tape does not record.
    fn noted(&self, out: Tensor, x: &Tensor, op: &'static str) -> Tensor {
        self.described(out.noted(op, &[x], || []), op)
    }
}

/// The number that [`var`](Tensor::var) and [`std`](Tensor::std) subtract from the number of elements before dividing
/// by it: a number, `()` for PyTorch's default of 1, or `true` and `false` for 1 and 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Correction(pub f64);

impl From<()> for Correction {
    fn from((): ()) -> Correction {
        Correction(1.0)
    }
}

impl From<bool> for Correction {
    fn from(unbiased: bool) -> Correction {
        Correction(f64::from(u8::from(unbiased)))
    }
}

impl From<f64> for Correction {
    fn from(correction: f64) -> Correction {
        Correction(correction)
    }
}

impl From<i32> for Correction {
    fn from(correction: i32) -> Correction {
        Correction(f64::from(correction))
    }
}

macro_rules! pair {
    ($($(#[$doc:meta])* $name:ident $keepdim:ident ($($arg:ident: $ty:ty),*) $body:ident;)*) => {
        #[located]
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// `dims` is `()` for all dimensions, one dimension, or an array of them; they are dropped. As in PyTorch,
            /// an empty array means all dimensions.
            ///
            /// # Errors
            /// If a dimension is out of range or named twice, or the dtype is not supported.
            pub fn $name(&self, dims: impl Dims $(, $arg: $ty)*) -> Result<Tensor> {
                cast_operands(stringify!($name), [self], [], |[x], []| {
                    x.$body(stringify!($name), dims, false $(, $arg)*)
                })
            }

            #[doc = concat!("[`", stringify!($name), "`](Tensor::", stringify!($name), ") that keeps the dimensions with extent 1.")]
            ///
            /// # Errors
            /// If a dimension is out of range or named twice, or the dtype is not supported.
            pub fn $keepdim(&self, dims: impl Dims $(, $arg: $ty)*) -> Result<Tensor> {
                cast_operands(stringify!($name), [self], [], |[x], []| {
                    x.$body(stringify!($keepdim), dims, true $(, $arg)*)
                })
            }
        )*}
    };
}

pair! {
    /// Sum; integers and `bool` give `i64`.
    sum sum_keepdim () sum_over;
    /// Sum in another dtype, PyTorch's `sum(dims, dtype=dtype)`: elements are converted before they are added.
    sum_dtype sum_dtype_keepdim (dtype: DType) sum_dtype_over;
    /// Arithmetic mean of floats.
    mean mean_keepdim () mean_over;
    /// Arithmetic mean in a floating-point dtype, PyTorch's `mean(dims, dtype=dtype)`: elements, which may be integers,
    /// are converted before they are added.
    mean_dtype mean_dtype_keepdim (dtype: DType) mean_dtype_over;
    /// Product; integers and `bool` give `i64`.
    prod prod_keepdim () prod_over;
    /// Product in another dtype, PyTorch's `prod(dims, dtype=dtype)`: elements are converted before they are multiplied.
    prod_dtype prod_dtype_keepdim (dtype: DType) prod_dtype_over;
    /// The largest value, NaN if there is one; equal values share the gradient evenly. [`max_dim`](Tensor::max_dim)
    /// returns the position as well.
    max max_keepdim () max_over;
    /// The smallest value, NaN if there is one; equal values share the gradient evenly. [`min_dim`](Tensor::min_dim)
    /// returns the position as well.
    min min_keepdim () min_over;
    /// The largest value; equal values share the gradient evenly.
    amax amax_keepdim () amax_over;
    /// The smallest value; equal values share the gradient evenly.
    amin amin_keepdim () amin_over;
    /// Whether any element is nonzero. Unlike for sums, an empty list of dimensions names none.
    any any_keepdim () any_over;
    /// Whether all elements are nonzero. Unlike for sums, an empty list of dimensions names none.
    all all_keepdim () all_over;
    /// Variance, with the divisor `n - correction`. `()` is PyTorch's default, Bessel's correction of 1; `true` and
    /// `false` stand for PyTorch's `unbiased`.
    var var_keepdim (correction: impl Into<Correction>) var_over;
    /// Standard deviation: the square root of [`var`](Tensor::var).
    std std_keepdim (correction: impl Into<Correction>) std_over;
    /// `log(sum(exp(x)))` without overflow; integers and `bool` give `f32`.
    logsumexp logsumexp_keepdim () logsumexp_over;
}

#[located]
impl Tensor {
    fn reduce(&self, op: ReduceOp, plan: &Plan) -> Result<Tensor> {
        let reading = self.read();
        let out = Tensor::compute(self.device(), op.result_dtype(self.dtype()), plan.kept, |backend, out| {
            backend.reduce(ReduceArgs { op, x: reading.view(), out }.checked()?)
        })?;
        if plan.out == plan.kept {
            Ok(out)
        } else {
            Ok(Tensor::from_storage(out.0.storage.clone(), kiln_backend::Layout::contiguous(plan.out)))
        }
    }

    fn sum_over(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        let plan = Plan::new(name, self, &dims, keepdim)?;
        let node = if plan.whole { "SumBackward0" } else { "SumBackward1" };
        let (own, kept) = (*self.shape(), plan.kept);
        let out = record(self.reduce(ReduceOp::Sum, &plan)?, node, &[self], &[], move |ctx| {
            Ok(one(ctx.grad()?.reshape(kept)?.expand(own)?))
        })?;
        Ok(plan.described(out, "sum"))
    }

    fn mean_over(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        check::floats(name, self)?;
        let plan = Plan::new(name, self, &dims, keepdim)?;
        let node = if plan.whole { "MeanBackward0" } else { "MeanBackward1" };
        let (own, kept, count) = (*self.shape(), plan.kept, plan.count as f64);
        let out = record(self.reduce(ReduceOp::Mean, &plan)?, node, &[self], &[], move |ctx| {
            let grad = ctx.grad()?;
            // Half precision cannot represent a large count.
            let share = grad.widened()?.div(count)?.to_dtype(grad.dtype())?;
            Ok(one(share.reshape(kept)?.expand(own)?))
        })?;
        Ok(plan.described(out, "mean"))
    }

    // Integers wrap as they would in the requested dtype.
    fn sum_dtype_over(&self, name: &'static str, dims: impl Dims, keepdim: bool, dtype: DType) -> Result<Tensor> {
        self.to_dtype(dtype)?.sum_over(name, dims, keepdim)?.to_dtype(dtype)
    }

    fn mean_dtype_over(&self, name: &'static str, dims: impl Dims, keepdim: bool, dtype: DType) -> Result<Tensor> {
        if !dtype.is_float() {
            return Err(Error::dtype(name, dtype, "a mean needs a floating-point dtype"));
        }
        self.to_dtype(dtype)?.mean_over(name, dims, keepdim)
    }

    fn prod_dtype_over(&self, name: &'static str, dims: impl Dims, keepdim: bool, dtype: DType) -> Result<Tensor> {
        self.to_dtype(dtype)?.prod_over(name, dims, keepdim)?.to_dtype(dtype)
    }

    fn any_over(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        let plan = Plan::listed(name, self, &dims, keepdim)?;
        Ok(plan.noted(self.reduce(ReduceOp::Any, &plan)?, self, "any"))
    }

    fn all_over(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        let plan = Plan::listed(name, self, &dims, keepdim)?;
        Ok(plan.noted(self.reduce(ReduceOp::All, &plan)?, self, "all"))
    }

    fn max_over(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        self.extreme(name, "MaxBackward1", ReduceOp::Max, &dims, keepdim)
    }

    fn min_over(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        self.extreme(name, "MinBackward1", ReduceOp::Min, &dims, keepdim)
    }

    fn amax_over(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        self.extreme(name, "AmaxBackward0", ReduceOp::Max, &dims, keepdim)
    }

    fn amin_over(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
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
        let out = record(out.clone(), node, &[self], &[self, &out], move |ctx| {
            let (x, y) = (ctx.saved(0)?, ctx.saved(1)?.reshape(kept)?);
            // NaN is the result if there is one, and is equal to nothing.
            let hits = x.eq(&y)?.logical_or(x.ne(&x)?.logical_and(&y.ne(&y)?)?)?;
            Ok(one(shared_among(&hits, &ctx.grad()?.reshape(kept)?)?))
        })?;
        Ok(plan.described(out, if op == ReduceOp::Max { "amax" } else { "amin" }))
    }

    fn prod_over(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        let plan = Plan::new(name, self, &dims, keepdim)?;
        let node = if plan.whole { "ProdBackward0" } else { "ProdBackward1" };
        let (kept, mask) = (plan.kept, plan.mask);
        let out = record(self.reduce(ReduceOp::Prod, &plan)?, node, &[self], &[self], move |ctx| {
            // Half precision is rounded once, at the end.
            let (x, grad) = (ctx.saved(0)?.widened()?, ctx.grad()?);
            let others =
                if ctx.create_graph { smooth_product_of_others(&x, &mask)? } else { product_of_others(&x, &mask)? };
            Ok(one(grad.reshape(kept)?.expand(x.shape())?.widened()?.mul(&others)?.to_dtype(grad.dtype())?))
        })?;
        Ok(plan.described(out, "prod"))
    }

    fn var_over(
        &self,
        name: &'static str,
        dims: impl Dims,
        keepdim: bool,
        correction: impl Into<Correction>,
    ) -> Result<Tensor> {
        check::floats(name, self)?;
        let Correction(correction) = correction.into();
        let plan = Plan::new(name, self, &dims, keepdim)?;
        let (kept, divisor) = (plan.kept, (plan.count as f64 - correction).max(0.0));
        let (rank, mask) = (self.rank(), plan.mask);
        let out = self.reduce(ReduceOp::Var { correction }, &plan)?;
        let out = record(out, "VarBackward0", &[self], &[self], move |ctx| {
            let (x, grad) = (ctx.saved(0)?.widened()?, ctx.grad()?);
            let centered = x.sub(&x.mean_keepdim(&dims_of(&mask, rank)[..])?)?;
            let slope = grad.reshape(kept)?.widened()?.mul(2.0 / divisor)?;
            Ok(one(centered.mul(&slope)?.to_dtype(grad.dtype())?))
        })?;
        Ok(plan.described_spread(out, "var", correction))
    }

    fn std_over(
        &self,
        name: &'static str,
        dims: impl Dims,
        keepdim: bool,
        correction: impl Into<Correction>,
    ) -> Result<Tensor> {
        check::floats(name, self)?;
        let Correction(correction) = correction.into();
        let plan = Plan::new(name, self, &dims, keepdim)?;
        let (kept, divisor) = (plan.kept, (plan.count as f64 - correction).max(0.0));
        let (rank, mask) = (self.rank(), plan.mask);
        // Half precision is rounded once, at the end.
        let std = no_grad(|| self.detach().widened()?.reduce(ReduceOp::Var { correction }, &plan)?.sqrt())?;
        let out = no_grad(|| std.to_dtype(self.dtype()))?;
        let out = record(out.detach(), "StdBackward0", &[self], &[self, &std], move |ctx| {
            let (x, grad) = (ctx.saved(0)?.widened()?, ctx.grad()?);
            let std = if ctx.create_graph {
                x.var_keepdim(&dims_of(&mask, rank)[..], correction)?.sqrt()?
            } else {
                ctx.saved(1)?.reshape(kept)?.widened()?
            };
            let centered = x.sub(&x.mean_keepdim(&dims_of(&mask, rank)[..])?)?;
            // Where the deviation is 0 the slope is taken to be 0, as in PyTorch.
            let slope = grad.reshape(kept)?.widened()?.div(&std.mul(divisor)?)?;
            Ok(one(centered.mul(&slope.keep_where(&std.ne(0.0)?)?)?.to_dtype(grad.dtype())?))
        })?;
        Ok(plan.described_spread(out, "std", correction))
    }

    fn logsumexp_over(&self, name: &'static str, dims: impl Dims, keepdim: bool) -> Result<Tensor> {
        if !self.dtype().is_float() {
            return self.to_dtype(DType::F32)?.logsumexp_over(name, dims, keepdim);
        }
        let plan = Plan::new(name, self, &dims, keepdim)?;
        let (out, kept) = (self.reduce(ReduceOp::LogSumExp, &plan)?, plan.kept);
        let out = record(out.clone(), "LogsumexpBackward0", &[self], &[self, &out], move |ctx| {
            let (x, y) = (ctx.saved(0)?, ctx.saved(1)?.reshape(kept)?);
            Ok(one(x.sub(&y)?.exp()?.mul(&ctx.grad()?.reshape(kept)?)?))
        })?;
        Ok(plan.described(out, "logsumexp"))
    }
}

/// Distributes the gradient `grad` of a reduction (with its dimensions kept) in equal shares over the positions in
/// `hits`, 0 elsewhere. The hits are counted in a type that does not round the count: in f16 it would soon be infinite.
pub(super) fn shared_among(hits: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let dims: smallvec::SmallVec<[usize; MAX_RANK]> =
        (0..hits.rank()).filter(|&dim| grad.dims()[dim] != hits.dims()[dim]).collect();
    let count = hits.to_dtype(DType::I64)?;
    let count = if dims.is_empty() { count } else { count.sum_keepdim(&dims[..])? };
    let wide = grad.widened()?;
    let share = wide.div(&count.clamp_min(1)?.to_dtype(wide.dtype())?)?.to_dtype(grad.dtype())?;
    hits.where_cond(&share, 0)
}

/// The dimensions that a mask selects.
fn dims_of(mask: &[bool; MAX_RANK], rank: usize) -> smallvec::SmallVec<[usize; MAX_RANK]> {
    (0..rank).filter(|&dim| mask[dim]).collect()
}

/// [`product_of_others`], computed with operations whose gradients are also right for elements that are 0: for each
/// element, the product of all elements before it times the product of those after it, each by a scan of `log2(n)` rounds
/// in which the distance between factors doubles.
fn smooth_product_of_others(x: &Tensor, mask: &[bool; MAX_RANK]) -> Result<Tensor> {
    let reduced = dims_of(mask, x.rank());
    if reduced.is_empty() || x.numel() == 0 {
        return x.ones_like();
    }
    let mut order: smallvec::SmallVec<[usize; MAX_RANK]> = (0..x.rank()).filter(|&dim| !mask[dim]).collect();
    order.extend(reduced.iter().copied());
    let permuted = x.permute(&order[..])?;
    let n: usize = reduced.iter().map(|&dim| x.dims()[dim]).product();
    let rows = permuted.reshape([x.numel() / n, n])?;
    // The product of all elements before each.
    let before = |rows: &Tensor| -> Result<Tensor> {
        let ones = |count: usize| Tensor::ones([rows.dims()[0], count], rows.options());
        let delayed = |t: &Tensor, by: usize| Tensor::cat(&[&ones(by)?, &t.narrow(1, 0, n - by)?], 1);
        let mut product = delayed(rows, 1)?;
        let mut reach = 1;
        while reach < n {
            product = product.mul(&delayed(&product, reach)?)?;
            reach *= 2;
        }
        Ok(product)
    };
    let after = before(&rows.flip(1)?)?.flip(1)?;
    let mut inverse: smallvec::SmallVec<[usize; MAX_RANK]> = smallvec::SmallVec::from_elem(0, order.len());
    order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    before(&rows)?.mul(&after)?.reshape(permuted.shape())?.permute(&inverse[..])
}

/// For every element, the product of the other elements of its group, even if some are 0.
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
