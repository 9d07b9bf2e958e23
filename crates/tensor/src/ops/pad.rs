//! `pad`: adds elements around a tensor.

use kiln_backend::{DType, Error, MAX_RANK, Result, Shape};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use crate::{
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

/// The elements that are added around a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// One number.
    Constant(f64),
    /// The elements mirrored at the edge, without repeating the edge: `c b | a b c | b a`.
    Reflect,
    /// The outermost element: `a a | a b c | c c`.
    Replicate,
    /// The elements from the opposite side: `b c | a b c | a b`.
    Circular,
}

/// The padding before and after, for each dimension.
type Amounts = SmallVec<[[i64; 2]; MAX_RANK]>;

#[located]
impl Tensor {
    /// Pads a tensor: `amounts` are the numbers of elements to add before and after the last dimension, then the one
    /// before it, and so on, in PyTorch's order: `[left, right, top, bottom]`. Negative amounts remove elements.
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.pad.html>)
    ///
    /// # Errors
    /// If the number of amounts is odd or above two per dimension, or more elements are removed, mirrored or repeated
    /// than there are.
    pub fn pad(&self, amounts: &[i64], mode: PadMode) -> Result<Tensor> {
        const OP: &str = "pad";
        if !amounts.len().is_multiple_of(2) || amounts.len() > 2 * self.rank() {
            let message =
                format!("{amounts:?} are not two amounts for each of the last dimensions of {}", self.shape());
            return Err(Error::argument(OP, message));
        }
        let mut all: Amounts = smallvec![[0; 2]; self.rank()];
        for (pair, slot) in amounts.chunks_exact(2).zip(all.iter_mut().rev()) {
            *slot = [pair[0], pair[1]];
        }
        match mode {
            PadMode::Constant(value) => {
                let out = no_grad(|| self.padded(&all, value))?;
                let pads = onnx_order(&all);
                let out = record(out, "ConstantPadNdBackward0", &[self], &[], move |ctx| {
                    let back: Amounts = all.iter().map(|[a, b]| [-a, -b]).collect();
                    let grad = ctx.grad()?;
                    if ctx.create_graph {
                        let amounts: SmallVec<[i64; 2 * MAX_RANK]> = back.iter().rev().flatten().copied().collect();
                        return Ok(one(grad.pad(&amounts, PadMode::Constant(0.0))?));
                    }
                    Ok(one(grad.padded(&back, 0.0)?))
                })?;
                Ok(out
                    .described("pad", || [("pads", pads.into()), ("mode", "constant".into()), ("value", value.into())]))
            }
            // A gradient that is summed along several dimensions is rounded once.
            _ if self.dtype().size() == 2 && self.requires_grad() && amounts.len() > 2 => {
                self.widened()?.pad(amounts, mode)?.to_dtype(self.dtype())
            }
            _ => {
                let mut x = self.clone();
                for (dim, &pair) in all.iter().enumerate().filter(|(_, pair)| **pair != [0; 2]) {
                    let index = sources(self.dims()[dim], pair, mode).ok_or_else(|| {
                        let message = format!("{pair:?} elements of dimension {dim} cannot be {mode:?}");
                        Error::shape(OP, message, self.shape())
                    })?;
                    x = x.index_select(dim, &Tensor::from_vec(index.clone(), index.len(), self.device())?)?;
                }
                let name = match mode {
                    PadMode::Reflect => "reflect",
                    PadMode::Replicate => "edge",
                    PadMode::Circular => "wrap",
                    PadMode::Constant(_) => return Ok(x),
                };
                if x.is_same(self) {
                    return Ok(x);
                }
                let pads = onnx_order(&all);
                Ok(x.noted("pad", &[self], || [("pads", pads.into()), ("mode", name.into()), ("value", 0.0.into())]))
            }
        }
    }

    /// Constant padding, not recorded on the tape.
    fn padded(&self, amounts: &[[i64; 2]], value: f64) -> Result<Tensor> {
        let mut dims: SmallVec<[usize; MAX_RANK]> = self.dims().into();
        let mut kept = self.clone();
        for (dim, &[before, after]) in amounts.iter().enumerate() {
            let extent = dims[dim] as i64;
            let size = extent.checked_add(before).and_then(|size| size.checked_add(after)).filter(|&size| size >= 0);
            // The range of elements that is kept.
            let taken = |amount: i64| amount.saturating_neg().clamp(0, extent);
            let (start, end) = (taken(before), extent - taken(after));
            let Some(size) = size.filter(|_| start <= end) else {
                let message = format!("at least as many elements along dimension {dim} as {before} and {after} remove");
                return Err(Error::shape("pad", message, self.shape()));
            };
            dims[dim] = size as usize;
            kept = kept.narrow(dim, start as usize, (end - start) as usize)?;
        }
        let dtype = self.dtype();
        // As a truth value, every number but 0 is 1.
        let value = if dtype == DType::Bool { f64::from(u8::from(value != 0.0)) } else { value };
        let out =
            Tensor::compute(self.device(), dtype, Shape::new(&dims)?, |backend, out| backend.fill(value.into(), out))?;
        let mut slot = out.clone();
        for (dim, &[before, _]) in amounts.iter().enumerate() {
            let count = kept.dims()[dim];
            // Without elements, the position has no meaning and may be past the end.
            slot = slot.narrow(dim, if count == 0 { 0 } else { before.max(0) as usize }, count)?;
        }
        slot.copy_(&kept)?;
        Ok(out)
    }
}

/// For exporters: all amounts before, then all after.
fn onnx_order(amounts: &[[i64; 2]]) -> Vec<i64> {
    [0, 1].into_iter().flat_map(|side| amounts.iter().map(move |pair| pair[side])).collect()
}

/// The source index of each element of a padded dimension; `None` if there are too few. If one side removes elements,
/// circular padding continues with those that are left.
fn sources(extent: usize, [before, after]: [i64; 2], mode: PadMode) -> Option<Vec<i64>> {
    let n = i64::try_from(extent).ok()?;
    let most = match mode {
        PadMode::Constant(_) => return None,
        PadMode::Reflect => n - 1,
        // PyTorch wraps around at most once.
        PadMode::Circular => n.checked_add(before.min(0))?.checked_add(after.min(0))?,
        PadMode::Replicate => i64::MAX,
    };
    let size = n.checked_add(before)?.checked_add(after)?;
    // Without an upper bound, a wrong number would fill memory with indices.
    let circular_in_nothing = mode == PadMode::Circular && most < 1;
    if before > most || after > most || size < 0 || n == 0 || circular_in_nothing || size > i64::from(u32::MAX) {
        return None;
    }
    let at = |i: i64| match mode {
        PadMode::Reflect if i < 0 => -i,
        PadMode::Reflect if i >= n => 2 * (n - 1) - i,
        PadMode::Circular => i.saturating_add(before.min(0)).rem_euclid(most) - before.min(0),
        _ => i.clamp(0, n - 1),
    };
    Some((-before..n + after).map(at).collect())
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn elements_around() -> Result<()> {
        let x = Tensor::new(&[1f32, 2., 3.], Device::Cpu)?;
        let pad = |amounts: &[i64], mode| x.pad(amounts, mode)?.to_vec::<f32>();
        assert_eq!(pad(&[1, 2], PadMode::Constant(9.0))?, [9., 1., 2., 3., 9., 9.]);
        assert_eq!(pad(&[-1, 1], PadMode::Constant(0.0))?, [2., 3., 0.]);
        assert_eq!(pad(&[2, 1], PadMode::Reflect)?, [3., 2., 1., 2., 3., 2.]);
        assert_eq!(pad(&[4, 1], PadMode::Replicate)?, [1., 1., 1., 1., 1., 2., 3., 3.]);
        assert_eq!(pad(&[3, 1], PadMode::Circular)?, [1., 2., 3., 1., 2., 3., 1.]);
        assert_eq!(pad(&[-1, 1], PadMode::Circular)?, [2., 3., 2.]);
        assert_eq!(pad(&[2, -1], PadMode::Circular)?, [1., 2., 1., 2.]);
        assert_eq!(pad(&[-1, -1], PadMode::Circular)?, [2.]);
        assert!(pad(&[-2, 2], PadMode::Circular).is_err() && pad(&[-3, 1], PadMode::Circular).is_err());
        assert!(pad(&[-2, -2], PadMode::Constant(0.0)).is_err());
        for (amounts, mode) in [
            (&[3i64, 0][..], PadMode::Reflect),
            (&[4, 0], PadMode::Circular),
            (&[1], PadMode::Reflect),
            (&[1, 1, 1, 1], PadMode::Reflect),
            (&[i64::MAX, 1], PadMode::Replicate),
            (&[i64::MAX, 1], PadMode::Constant(0.0)),
        ] {
            assert!(x.pad(amounts, mode).is_err(), "{amounts:?} {mode:?}");
        }
        assert_eq!(Tensor::zeros([0, 2], Device::Cpu)?.pad(&[1, 1, 2, 0], PadMode::Constant(1.0))?.dims(), [2, 4]);
        Ok(())
    }
}
