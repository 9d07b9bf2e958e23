//! The indexing method: Python's `x[…]` as `x.i(…)`.

mod items;
mod lists;

use kiln_backend::{DType, Error, Result};
use kiln_derive::located;
use smallvec::SmallVec;

pub use items::{At, Ellipsis, IndexItem, Indexer, NewAxis, step};

use super::rhs::Rhs;
use crate::{autocast::cast_operands, autograd, tensor::Tensor};

#[located]
impl Tensor {
    /// The part of the tensor that an index selects, as Python's `x[…]`: integers, ranges, [`step`], [`Ellipsis`],
    /// [`NewAxis`], index tensors and masks, alone or in a tuple. Dimensions not mentioned stay whole.
    ///
    /// | PyTorch | Kiln |
    /// |---|---|
    /// | `x[-1]` | `x.i(-1)` |
    /// | `x[:, 1]` | `x.i((.., 1))` |
    /// | `x[..., 1]` | `x.i((Ellipsis, 1))` |
    /// | `x[:, :, :2]` | `x.i((.., .., ..2))` |
    /// | `x[1:9:2]` | `x.i(step(1..9, 2))` |
    /// | `x[:, None]` | `x.i((.., NewAxis))` |
    /// | `x[rows]`, `x[mask]` | `x.i(&rows)`, `x.i(&mask)` |
    /// | `x[:, 1] = 0` | `x.i((.., 1))?.fill_(0)`, `x.i_assign((.., 1), 0)` |
    ///
    /// The result is a view, so that changing it changes the tensor, unless the index contains a tensor: that copies.
    /// An index tensor is `i64` or `i32` (negative numbers count from the end); its dimensions replace the indexed one.
    /// Several index tensors broadcast and are read together; if whole dimensions are between them, their dimensions
    /// come first. A mask is `bool`, has the extents of the dimensions it covers, and selects vectors of elements, for
    /// which it waits for the device.
    ///
    /// ```
    /// # use kiln_tensor::{Device, Tensor};
    /// let x = Tensor::arange(0, 27, Device::Cpu)?.reshape([3, 3, 3])?;
    /// assert_eq!(x.i((.., .., ..2))?.dims(), [3, 3, 2]);
    /// assert_eq!(x.i((.., .., 2))?.dims(), [3, 3]);
    /// assert_eq!(x.i((0, 1, -1))?.item::<i64>()?, 5);
    /// x.i(0)?.fill_(1)?;
    /// assert_eq!(x.i((0, 2))?.to_vec::<i64>()?, [1, 1, 1]);
    /// # Ok::<(), kiln_tensor::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there are more items than dimensions, an index is out of range, a step is 0, or an index tensor has another
    /// dtype than `i64`, `i32` and `bool` or does not fit.
    pub fn i(&self, index: impl Indexer) -> Result<Tensor> {
        self.index(&index.items())
    }

    /// Sets the part of the tensor that an index selects (see [`i`](Tensor::i)) to a number, or to the values of a
    /// tensor that broadcasts to it: Python's `x[…] = value`, also with index tensors and masks.
    ///
    /// # Errors
    /// Those of [`i`](Tensor::i); or if the value does not fit, or the tensor is a leaf that requires gradients while
    /// recording is on.
    pub fn i_assign(&self, index: impl Indexer, value: impl Into<Rhs>) -> Result<()> {
        self.write_at("i_assign", &index.items(), value.into(), false)
    }

    /// A copy with the part that an index selects (see [`i`](Tensor::i)) set to a number, or to the values of a tensor
    /// that broadcasts to it; with `accumulate`, they are added, as often as an element is selected.
    ///
    /// # Errors
    /// Those of [`i`](Tensor::i); or if the value does not fit.
    pub fn index_put(&self, index: impl Indexer, value: impl Into<Rhs>, accumulate: bool) -> Result<Tensor> {
        let (items, value): (_, Rhs) = (index.items(), value.into());
        cast_operands("index_put", [self], [value.tensor()], |[x], [values]| {
            let value = values.map_or_else(|| value.clone(), Rhs::from);
            x.index_put_no_autocast(&items, value, accumulate)
        })
    }

    fn index_put_no_autocast(&self, items: &[At], value: Rhs, accumulate: bool) -> Result<Tensor> {
        let out = self.copy()?;
        out.write_at("index_put", items, value.clone(), accumulate)?;
        if !autograd::is_tracing() {
            return Ok(out);
        }
        // For exporters: the positions that are set in the flattened tensor, and their values.
        let numbers = Tensor::arange(0, self.numel(), self.options().dtype(DType::I64))?.reshape(self.shape())?;
        let part = numbers.index(items)?;
        let values = match value {
            Rhs::Tensor(values) => values.to_dtype(self.dtype())?.expand(part.shape())?,
            Rhs::Scalar(value) => Tensor::full(part.shape(), value, self.options())?,
        };
        let (part, values) = (part.flatten_all()?, values.flatten_all()?);
        Ok(out.noted("index_put", &[self, &part, &values], || [("accumulate", accumulate.into())]))
    }

    /// [`index_put`](Tensor::index_put) in place.
    ///
    /// # Errors
    /// Those of [`index_put`](Tensor::index_put); or if the tensor is a leaf that requires gradients while recording is
    /// on.
    pub fn index_put_(&self, index: impl Indexer, value: impl Into<Rhs>, accumulate: bool) -> Result<()> {
        self.write_at("index_put_", &index.items(), value.into(), accumulate)
    }

    fn write_at(&self, op: &'static str, items: &[At], value: Rhs, accumulate: bool) -> Result<()> {
        self.put_at(op, items, value, accumulate).map_err(|error| error.of_op(op))
    }

    fn put_at(&self, op: &'static str, items: &[At], value: Rhs, accumulate: bool) -> Result<()> {
        if !accumulate && !items.iter().any(|at| matches!(at, At::List(_))) {
            let part = self.index(items)?;
            return match value {
                Rhs::Scalar(value) => part.fill_(value),
                Rhs::Tensor(value) => part.copy_(&value),
            };
        }
        // The same index applied to the elements' positions gives the positions that are set.
        let numbers = Tensor::arange(0, self.numel(), self.options().dtype(DType::I64))?.reshape(self.shape())?;
        let part = numbers.index(items)?;
        let value = match value {
            Rhs::Tensor(t) => {
                let values = t.to_dtype(self.dtype())?.expand(part.shape())?;
                Rhs::Tensor(values.flatten_all()?)
            }
            Rhs::Scalar(number) if accumulate => Rhs::Tensor(Tensor::full([part.numel()], number, self.options())?),
            number @ Rhs::Scalar(_) => number,
        };
        let part = part.flatten_all()?;
        let written = |target: &Tensor| match (&value, accumulate) {
            (Rhs::Tensor(values), true) => target.scatter_add(0, &part, values),
            _ => target.scatter(0, &part, value.clone()),
        };
        let recorded = self.records_change(op, value.tensor())?;
        if self.is_contiguous() && !recorded {
            let flat = self.view([self.numel()])?;
            return match (&value, accumulate) {
                (Rhs::Tensor(values), true) => flat.scatter_add_(0, &part, values),
                _ => flat.scatter_(0, &part, value.clone()),
            };
        }
        let new = written(&self.flatten_all()?)?.reshape(self.shape())?;
        if recorded { self.replace_by(op, &new) } else { self.copy_(&new) }
    }

    fn index(&self, items: &[At]) -> Result<Tensor> {
        let spread = self.expand_ellipsis(items)?;
        let only = matches!(items, [At::Slice { .. }]);
        let (mut out, mut dim) = (self.clone(), 0);
        let (mut own, mut changed) = (0, false);
        let mut lists: SmallVec<[(usize, Tensor); 2]> = SmallVec::new();
        for at in &spread {
            let extent = self.dims().get(own).copied().unwrap_or(0);
            match at {
                At::Select(index) => {
                    let from_front = if *index < 0 { index.saturating_add(extent as i64) } else { *index };
                    let Some(position) = usize::try_from(from_front).ok().filter(|&p| p < extent) else {
                        return Err(Error::index("i", *index, extent, format!("dimension {own}")));
                    };
                    out = out.select_view("SelectBackward0", dim, position)?;
                    (own, changed) = (own + 1, true);
                }
                At::Slice { start, end, step } => {
                    if only || start.is_some() || end.is_some() || *step != 1 {
                        out = out.slice(dim, start.unwrap_or(0), end.unwrap_or(i64::MAX), *step)?;
                        changed = true;
                    }
                    (own, dim) = (own + 1, dim + 1);
                }
                At::NewAxis => {
                    out = out.unsqueeze(dim)?;
                    (dim, changed) = (dim + 1, true);
                }
                At::Ellipsis => {}
                At::List(list) if list.dtype() == DType::Bool => {
                    for positions in lists::mask_lists(list, &self.dims()[own..], own)? {
                        lists.push((dim, positions));
                        (own, dim) = (own + 1, dim + 1);
                    }
                }
                At::List(list) => {
                    lists.push((dim, list.clone()));
                    (own, dim) = (own + 1, dim + 1);
                }
            }
        }
        if !lists.is_empty() {
            return lists::read(&out, &lists);
        }
        if changed {
            return Ok(out);
        }
        let name =
            if items.iter().any(|at| matches!(at, At::Slice { .. })) { "SliceBackward0" } else { "AliasBackward0" };
        Ok(self.view_through(name, *self.layout(), |ctx| ctx.grad())?.described("identity", || []))
    }

    /// Replaces the ellipsis by whole dimensions, and checks the number of items.
    fn expand_ellipsis(&self, items: &[At]) -> Result<SmallVec<[At; 8]>> {
        let taken: usize = items
            .iter()
            .map(|at| match at {
                At::NewAxis | At::Ellipsis => 0,
                At::List(list) if list.dtype() == DType::Bool => list.rank(),
                At::Select(_) | At::Slice { .. } | At::List(_) => 1,
            })
            .sum();
        let Some(left) = self.rank().checked_sub(taken) else {
            return Err(Error::shape(
                "i",
                format!("a tensor with at least the {taken} dimensions indexed"),
                self.shape(),
            ));
        };
        if items.iter().filter(|at| matches!(at, At::Ellipsis)).count() > 1 {
            return Err(Error::argument("i", "an index has at most one ellipsis"));
        }
        let whole = At::Slice { start: None, end: None, step: 1 };
        let mut out = SmallVec::new();
        for at in items {
            match at {
                At::Ellipsis => out.extend(std::iter::repeat_n(whole.clone(), left)),
                other => out.push(other.clone()),
            }
        }
        Ok(out)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::device::Device;

    fn x() -> Result<Tensor> {
        Tensor::arange(0, 24, Device::Cpu)?.reshape([2, 3, 4])
    }

    #[test]
    fn basic_indices_are_views() -> Result<()> {
        let x = x()?;
        assert_eq!(x.i(-1)?.to_vec::<i64>()?, (12..24).collect::<Vec<_>>());
        assert_eq!(x.i((1, 2, 3))?.item::<i64>()?, 23);
        assert_eq!(x.i((.., 1))?.dims(), [2, 4]);
        assert_eq!(x.i((.., 1usize..))?.dims(), [2, 2, 4]);
        assert_eq!(x.i((.., ..=-1, -3..99))?.dims(), [2, 3, 3]);
        assert_eq!(x.i((0, 0, step(.., 3)))?.to_vec::<i64>()?, [0, 3]);
        assert_eq!(x.i((0, 0, step(1..=3, 2)))?.to_vec::<i64>()?, [1, 3]);
        assert_eq!(x.i((Ellipsis, 0))?.dims(), [2, 3]);
        assert_eq!(x.i((0, Ellipsis, 0, NewAxis))?.dims(), [3, 1]);
        assert_eq!(x.i(1..1)?.dims(), [0, 3, 4]);
        #[allow(clippy::reversed_empty_ranges)] // selects nothing, as in Python
        let backwards = 2..1;
        assert_eq!(x.i(backwards)?.dims(), [0, 3, 4]);
        assert_eq!(x.i(&[At::Select(0), At::Select(0)][..])?.dims(), [4]);
        assert!(x.i((0, 0))?.shares_memory(&x));
        let s = Tensor::new(1f32, Device::Cpu)?;
        assert_eq!((s.i(NewAxis)?.dims(), s.i(Ellipsis)?.dims()), (&[1][..], &[][..]));
        Ok(())
    }

    #[test]
    fn bad_indices_are_errors() -> Result<()> {
        let x = x()?;
        assert_eq!(x.i((0, 3)).unwrap_err().to_string(), "i: index 3 is out of range for dimension 1 of size 3");
        assert!(x.i((0, 0, 0, 0)).is_err() && x.i((Ellipsis, Ellipsis)).is_err());
        assert!(x.i(step(.., 0)).is_err() && x.i(i64::MIN).is_err() && x.i(usize::MAX).is_err());
        assert!(Tensor::new(1f32, Device::Cpu)?.i(0).is_err());
        assert!(x.i(&x.to_dtype(DType::F32)?).is_err());
        assert!(x.i(&Tensor::new(&[2i64], Device::Cpu)?).is_err());
        assert!(x.i(&Tensor::new(&[true], Device::Cpu)?).is_err());
        Ok(())
    }

    #[test]
    fn names_are_pytorchs() -> Result<()> {
        let x = Tensor::rand([3, 4], Device::Cpu)?.requires_grad_(true)?;
        let rows = Tensor::new(&[0i64, 2], Device::Cpu)?;
        let name = |y: Result<Tensor>| y.map(|y| y.grad_fn().unwrap().name().to_string());
        assert_eq!(name(x.i((.., 1)))?, "SelectBackward0");
        assert_eq!(name(x.i(..))?, "SliceBackward0");
        assert_eq!(name(x.i(Ellipsis))?, "AliasBackward0");
        assert_eq!(name(x.i((.., step(.., 2))))?, "SliceBackward0");
        assert_eq!(name(x.i(NewAxis))?, "UnsqueezeBackward0");
        assert_eq!(name(x.i((.., &rows)))?, "IndexBackward0");
        assert_eq!(name(x.i(x.gt(0.5)?))?, "IndexBackward0");
        Ok(())
    }

    #[test]
    fn assignment_reaches_the_tensor() -> Result<()> {
        let x = Tensor::ones([2, 3], Device::Cpu)?;
        x.i((.., 1))?.fill_(0.)?;
        assert_eq!(x.to_vec::<f32>()?, [1., 0., 1., 1., 0., 1.]);
        x.i_assign((1, ..2), &Tensor::new(&[5f32, 6.], Device::Cpu)?)?;
        x.i_assign(x.eq(1)?, 9)?;
        assert_eq!(x.to_vec::<f32>()?, [9., 0., 9., 5., 6., 9.]);
        x.t()?.i_assign(&Tensor::new(&[-1i64], Device::Cpu)?, 2)?;
        assert_eq!(x.to_vec::<f32>()?, [9., 0., 2., 5., 6., 2.]);
        let w = Tensor::new(&[1f32, 2.], Device::Cpu)?.requires_grad_(true)?;
        let y = Tensor::zeros([3], Device::Cpu)?;
        y.i_assign(Tensor::new(&[2i64, 0], Device::Cpu)?, &w)?;
        y.mul(&Tensor::new(&[3f32, 4., 5.], Device::Cpu)?)?.sum(())?.backward()?;
        assert_eq!(w.grad().unwrap().to_vec::<f32>()?, [5., 3.]);
        assert!(w.i_assign(0, 1).is_err());
        Ok(())
    }
}
