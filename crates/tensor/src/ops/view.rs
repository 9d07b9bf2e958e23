//! Views: other layouts over the same memory. No element is copied, except by `reshape` if strides cannot express the
//! new shape.

use kiln_backend::{Dim, Dims, Error, Layout, MAX_RANK, Result, Shape};
use kiln_derive::located;
use smallvec::SmallVec;

use crate::{
    autograd::{Ctx, one, record},
    creation::Extents,
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// A view through `layout`; the gradient rule `rule` maps back to this tensor's shape.
    pub(super) fn view_through(
        &self,
        name: &'static str,
        layout: Layout,
        rule: impl Fn(&Ctx<'_>) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Result<Tensor> {
        record(self.alias(layout), name, &[self], &[], move |ctx| Ok(one(rule(ctx)?)))
    }

    /// The view with two dimensions exchanged.
    ///
    /// # Errors
    /// If a dimension is out of range.
    pub fn transpose(&self, a: impl Dim, b: impl Dim) -> Result<Tensor> {
        let (a, b) = (a.resolve("transpose", self.rank())?, b.resolve("transpose", self.rank())?);
        if self.rank() == 0 {
            return self.view_through("TransposeBackward0", *self.layout(), |ctx| ctx.grad());
        }
        let layout = self.layout().transpose(a, b);
        let out = self.view_through("TransposeBackward0", layout, move |ctx| ctx.grad()?.transpose(a, b))?;
        let mut order: SmallVec<[usize; MAX_RANK]> = (0..self.rank()).collect();
        order.swap(a, b);
        Ok(out.described("permute", || [("order", (&order[..]).into())]))
    }

    /// The transpose of a matrix; vectors and scalars are returned unchanged.
    ///
    /// # Errors
    /// If the tensor has more than 2 dimensions.
    pub fn t(&self) -> Result<Tensor> {
        match self.rank() {
            0 | 1 => {
                Ok(self.view_through("TBackward0", *self.layout(), |ctx| ctx.grad())?.described("identity", || []))
            }
            2 => {
                let out = self.view_through("TBackward0", self.layout().transpose(0, 1), |ctx| ctx.grad()?.t())?;
                Ok(out.described("permute", || [("order", (&[1, 0][..]).into())]))
            }
            _ => Err(Error::shape("t", "at most 2 dimensions", self.shape())),
        }
    }

    /// Makes this handle the transpose of the matrix. Other handles to the tensor keep their shape (in PyTorch, `t_`
    /// changes the one object, so they would see it).
    ///
    /// # Errors
    /// If the tensor has more than 2 dimensions, or is a leaf that requires gradients while recording is on.
    pub fn t_(&mut self) -> Result<()> {
        self.records_change("t_", None)?;
        *self = self.t()?;
        Ok(())
    }

    /// The view with its dimensions in this order.
    ///
    /// # Errors
    /// If `order` does not name every dimension once.
    pub fn permute<D: Dim>(&self, order: impl AsRef<[D]>) -> Result<Tensor> {
        let rank = self.rank();
        let order: SmallVec<[usize; MAX_RANK]> =
            order.as_ref().iter().map(|&d| Dim::resolve(d, "permute", rank)).collect::<Result<_>>()?;
        let mut inverse: SmallVec<[usize; MAX_RANK]> = SmallVec::from_elem(MAX_RANK, rank);
        order.iter().enumerate().for_each(|(to, &from)| {
            if from < rank {
                inverse[from] = to;
            }
        });
        if order.len() != rank || inverse.contains(&MAX_RANK) {
            let message = format!("{order:?} does not name each of the {rank} dimensions once");
            return Err(Error::argument("permute", message));
        }
        let layout = self.layout().permute(&order);
        let out = self.view_through("PermuteBackward0", layout, move |ctx| ctx.grad()?.permute(&inverse))?;
        Ok(out.described("permute", || [("order", (&order[..]).into())]))
    }

    /// The elements `start..start + len` of a dimension.
    ///
    /// # Errors
    /// If the dimension or the range is out of range.
    pub fn narrow(&self, dim: impl Dim, start: usize, len: usize) -> Result<Tensor> {
        let dim = self.real_dim("narrow", dim)?;
        let extent = self.dims()[dim];
        if start.checked_add(len).is_none_or(|end| end > extent) {
            let message =
                format!("range {start}..{start}+{len} is not inside dimension {dim} of shape {}", self.shape());
            return Err(Error::argument("narrow", message));
        }
        self.slice_view("SliceBackward0", dim, start, start + len, 1)
    }

    /// Every `step`-th of the elements `start..end` of a dimension. As in Python, negative bounds count from the end,
    /// and bounds out of range are clipped.
    ///
    /// # Errors
    /// If the dimension is out of range, or the step is 0.
    pub fn slice(&self, dim: impl Dim, start: i64, end: i64, step: usize) -> Result<Tensor> {
        let dim = self.real_dim("slice", dim)?;
        if step == 0 {
            return Err(Error::argument("slice", "the step must be positive"));
        }
        let extent = self.dims()[dim] as i64;
        let clip =
            |bound: i64| (if bound < 0 { bound.saturating_add(extent) } else { bound }).clamp(0, extent) as usize;
        let start = clip(start);
        self.slice_view("SliceBackward0", dim, start, clip(end).max(start), step)
    }

    pub(super) fn slice_view(
        &self,
        name: &'static str,
        dim: usize,
        start: usize,
        end: usize,
        step: usize,
    ) -> Result<Tensor> {
        let shape = *self.shape();
        let out = self.view_through(name, self.layout().slice(dim, start, end, step), move |ctx| {
            place(&shape, &ctx.grad()?, |layout| layout.slice(dim, start, end, step))
        })?;
        // For exporters, a slice to the end stays one whatever the extent is.
        let end = if end == shape[dim] { i64::MAX } else { end as i64 };
        Ok(out.described("slice", || {
            [("dim", dim.into()), ("start", start.into()), ("end", end.into()), ("step", step.into())]
        }))
    }

    /// The elements at one index of a dimension, which is dropped. Negative indices count from the end.
    ///
    /// # Errors
    /// If the dimension or the index is out of range.
    pub fn select(&self, dim: impl Dim, index: i64) -> Result<Tensor> {
        let dim = self.real_dim("select", dim)?;
        let extent = self.dims()[dim];
        let at = if index < 0 { index.saturating_add(extent as i64) } else { index };
        let Some(at) = usize::try_from(at).ok().filter(|&at| at < extent) else {
            return Err(Error::index("select", index, extent, format!("dimension {dim}")));
        };
        self.select_view("SelectBackward0", dim, at)
    }

    pub(super) fn select_view(&self, name: &'static str, dim: usize, at: usize) -> Result<Tensor> {
        let shape = *self.shape();
        let out = self.view_through(name, self.layout().select(dim, at), move |ctx| {
            place(&shape, &ctx.grad()?, |layout| layout.select(dim, at))
        })?;
        Ok(out.described("select", || [("dim", dim.into()), ("index", at.into())]))
    }

    /// Removes the dimensions of extent 1 among `dims` (`()`: among all, an empty list: none); other dimensions named
    /// are kept.
    /// # Errors
    /// If a dimension is out of range.
    pub fn squeeze(&self, dims: impl Dims) -> Result<Tensor> {
        let mask = dims.resolve_listed("squeeze", self.rank())?;
        let shape = *self.shape();
        let mut layout = *self.layout();
        for dim in (0..self.rank()).rev().filter(|&d| mask[d] && self.dims()[d] == 1) {
            layout = layout.squeeze(dim);
        }
        let name = match mask[..self.rank()].iter().filter(|&&m| m).count() {
            _ if dims.names_none() && !dims.is_empty_list() => "SqueezeBackward0",
            1 => "SqueezeBackward1",
            _ => "SqueezeBackward2",
        };
        Ok(self.view_through(name, layout, move |ctx| ctx.grad()?.reshape(shape))?.described("reshape", || []))
    }

    /// Inserts a dimension of extent 1 at position `dim` (at most the rank; -1 appends it).
    ///
    /// # Errors
    /// If the position is out of range, or there are already 8 dimensions.
    pub fn unsqueeze(&self, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve("unsqueeze", self.rank() + 1)?;
        let layout = self.layout().unsqueeze(dim)?;
        let out = self.view_through("UnsqueezeBackward0", layout, move |ctx| ctx.grad()?.squeeze(dim))?;
        Ok(out.described("reshape", || []))
    }

    /// The view that broadcasts extents of 1 to `shape`; new dimensions are prepended, and -1 keeps an extent.
    ///
    /// # Errors
    /// If this shape does not broadcast to `shape`.
    pub fn expand(&self, shape: impl Extents) -> Result<Tensor> {
        let (mut extents, rank) = shape.extents("expand")?;
        let lead = rank.checked_sub(self.rank());
        for (i, extent) in extents[..rank].iter_mut().enumerate() {
            if *extent == -1
                && let Some(own) = lead.and_then(|lead| i.checked_sub(lead)).map(|own| self.dims()[own])
            {
                *extent = own as i64;
            }
        }
        let shape = extents[..rank].to_shape("expand")?;
        let layout = self.layout().expand("expand", &shape)?;
        let own = *self.shape();
        let out = self.view_through("ExpandBackward0", layout, move |ctx| ctx.grad()?.sum_to(&own))?;
        Ok(out.described("expand", || []))
    }

    /// [`expand`](Tensor::expand) to another tensor's shape.
    ///
    /// # Errors
    /// Those of [`expand`](Tensor::expand).
    pub fn expand_as(&self, other: &Tensor) -> Result<Tensor> {
        self.expand(other.shape())
    }

    /// The same elements in the same order under another shape; one extent may be -1. A view if strides can express it,
    /// else a copy.
    ///
    /// # Errors
    /// If the number of elements differs.
    pub fn reshape(&self, shape: impl Extents) -> Result<Tensor> {
        let shape = shape.to_shape_of("reshape", self.shape())?;
        match self.layout().reshape(&shape) {
            Some(layout) => self.reshaped("ViewBackward0", layout),
            None => {
                let own = self.contiguous()?;
                own.reshaped("UnsafeViewBackward0", Layout::contiguous(shape))
            }
        }
    }

    /// [`reshape`](Tensor::reshape) that never copies.
    ///
    /// # Errors
    /// If the number of elements differs, or the shape would need a copy.
    pub fn view(&self, shape: impl Extents) -> Result<Tensor> {
        self.viewed("view", &shape)
    }

    fn viewed(&self, op: &'static str, shape: &impl Extents) -> Result<Tensor> {
        let shape = shape.to_shape_of(op, self.shape())?;
        let Some(layout) = self.layout().reshape(&shape) else {
            let expected =
                format!("a tensor that {shape} can be a view of (strides {:?}); use `reshape`", self.strides());
            return Err(Error::shape(op, expected, self.shape()));
        };
        self.reshaped("ViewBackward0", layout)
    }

    /// [`view`](Tensor::view) with another tensor's shape.
    ///
    /// # Errors
    /// Those of [`view`](Tensor::view).
    pub fn view_as(&self, other: &Tensor) -> Result<Tensor> {
        self.viewed("view_as", other.shape())
    }

    fn reshaped(&self, name: &'static str, layout: Layout) -> Result<Tensor> {
        let own = *self.shape();
        Ok(self.view_through(name, layout, move |ctx| ctx.grad()?.reshape(own))?.described("reshape", || []))
    }

    /// The dimensions `start..=end` merged into one.
    ///
    /// # Errors
    /// If a dimension is out of range, or `start` is after `end`.
    pub fn flatten(&self, start: impl Dim, end: impl Dim) -> Result<Tensor> {
        let (start, end) = (start.resolve("flatten", self.rank())?, end.resolve("flatten", self.rank())?);
        if start > end {
            return Err(Error::argument("flatten", format!("dimension {start} is after {end}")));
        }
        if self.rank() == 0 {
            return self.reshape([1]);
        }
        if start == end {
            return Ok(self.clone());
        }
        let (dims, mut merged) = (self.dims(), SmallVec::<[usize; MAX_RANK]>::new());
        merged.extend_from_slice(&dims[..start]);
        merged.push(dims[start..=end].iter().product());
        merged.extend_from_slice(&dims[end + 1..]);
        self.reshape(&merged[..])
    }

    /// The tensor flattened to one dimension.
    ///
    /// # Errors
    /// If memory runs out (when a copy is needed).
    pub fn flatten_all(&self) -> Result<Tensor> {
        self.reshape([self.numel()])
    }

    /// Sums over the dimensions that were broadcast to reach this shape from `shape`: the gradient of a broadcast.
    pub(crate) fn sum_to(&self, shape: &Shape) -> Result<Tensor> {
        if self.shape() == shape {
            return Ok(self.clone());
        }
        let Some(lead) = self.rank().checked_sub(shape.rank()) else {
            return Err(Error::broadcast("sum_to", shape, self.shape()));
        };
        let dims: SmallVec<[usize; MAX_RANK]> =
            (0..self.rank()).filter(|&dim| dim < lead || (shape[dim - lead] == 1 && self.dims()[dim] != 1)).collect();
        let summed = if dims.is_empty() { self.clone() } else { self.sum_keepdim(&dims[..])? };
        summed.reshape(shape)
    }

    /// A dimension that exists; unlike elsewhere, a scalar has none.
    pub(crate) fn real_dim(&self, op: &'static str, dim: impl Dim) -> Result<usize> {
        if self.rank() == 0 {
            return Err(Error::shape(op, "a tensor with dimensions", self.shape()));
        }
        dim.resolve(op, self.rank())
    }
}

/// Zeros of `shape` with `grad` written to `part` of a contiguous layout: the gradient of a slice.
pub(super) fn place(shape: &Shape, grad: &Tensor, part: impl Fn(&Layout) -> Layout) -> Result<Tensor> {
    let out = Tensor::zeros(shape, grad.options())?;
    out.alias(part(out.layout())).copy_(grad)?;
    Ok(out)
}
