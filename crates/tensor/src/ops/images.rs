//! Helpers of image operations: batching of single images, and memory formats.

use kiln_backend::{Error, Layout, Result, Shape};
use kiln_derive::located;

use super::check;
use crate::{storage::Writing, tensor::Tensor};

/// Calls `f` with floating-point images `[N, C, H, W]`. A single image `[C, H, W]` becomes a batch of one and gives a
/// single image; errors show its own shape.
pub(crate) fn batched(op: &'static str, x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    check::floats(op, x)?;
    match x.rank() {
        4 => f(x),
        3 => {
            let batch = x.unsqueeze(0)?;
            f(&batch).map_err(|error| error.with_shape(batch.shape(), x.shape()))?.squeeze(0)
        }
        2 => Err(Error::shape(
            op,
            "images [N, C, H, W] or [C, H, W]; make one of a grayscale image [H, W] with `unsqueeze(0)`",
            x.shape(),
        )),
        _ => Err(Error::shape(op, "images [N, C, H, W] or [C, H, W]", x.shape())),
    }
}

/// [`batched`] for `spatial` dimensions after the channels, 1 or 3.
pub(crate) fn batched_of(
    op: &'static str,
    spatial: usize,
    x: &Tensor,
    f: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    check::floats(op, x)?;
    if x.rank() == spatial + 2 {
        f(x)
    } else if x.rank() == spatial + 1 {
        let batch = x.unsqueeze(0)?;
        f(&batch).map_err(|error| error.with_shape(batch.shape(), x.shape()))?.squeeze(0)
    } else {
        let expected = match spatial {
            1 => "[N, C, L] or [C, L]",
            2 => "[N, C, H, W] or [C, H, W]",
            _ => "[N, C, D, H, W] or [C, D, H, W]",
        };
        Err(Error::shape(op, expected, x.shape()))
    }
}

/// [`batched_of`] for a call that also returns positions.
pub(crate) fn with_indices(
    op: &'static str,
    spatial: usize,
    x: &Tensor,
    f: impl FnOnce(&Tensor) -> Result<(Tensor, Tensor)>,
) -> Result<(Tensor, Tensor)> {
    let mut positions = None;
    let values_of = |x: &Tensor| {
        let (values, indices) = f(x).map_err(|error| error.of_op(op))?;
        positions = Some(indices);
        Ok(values)
    };
    let values = if spatial == 2 { batched(op, x, values_of) } else { batched_of(op, spatial, x, values_of) }?;
    let positions = positions.ok_or_else(|| Error::argument(op, "the device gave no positions"))?;
    Ok((values, if x.rank() == spatial + 1 { positions.squeeze(0)? } else { positions }))
}

/// Channels-last memory: the elements of `[N, C, H, W]` in the order N, H, W, C.
fn channels_last(shape: Shape) -> Layout {
    let dims = shape.dims();
    let stored = [dims[0], dims[2], dims[3], dims[1]];
    Layout::contiguous(Shape::new(&stored).unwrap_or(shape)).permute(&[0, 3, 1, 2])
}

/// The memory layout of a result of image operations: channels-last if `x` is, else row-major.
pub(crate) fn image_layout(x: &Tensor, shape: Shape) -> Layout {
    if shape.rank() == 4 && x.is_channels_last() { channels_last(shape) } else { Layout::contiguous(shape) }
}

/// A new tensor, locked for a backend to write to as one of several results.
pub(crate) fn writing(t: &Tensor) -> Writing<'_> {
    Writing { guard: t.0.storage.write(), layout: t.layout() }
}

#[located]
impl Tensor {
    /// Whether these are images `[N, C, H, W]` in channels-last memory (in the order N, H, W, C), PyTorch's
    /// `is_contiguous(memory_format=torch.channels_last)`, and not in row-major order as well.
    #[must_use]
    pub fn is_channels_last(&self) -> bool {
        self.rank() == 4 && !self.is_contiguous() && self.layout().permute(&[0, 2, 3, 1]).is_contiguous()
    }

    /// The same images `[N, C, H, W]` in channels-last memory: PyTorch's
    /// `contiguous(memory_format=torch.channels_last)`. Convolutions, pooling, normalization and element-wise
    /// operations preserve this format. A view if they are in it already.
    ///
    /// # Errors
    /// If the tensor is not 4-D.
    pub fn channels_last(&self) -> Result<Tensor> {
        if self.rank() != 4 {
            return Err(Error::shape("channels_last", "images [N, C, H, W]", self.shape()));
        }
        self.permute([0, 2, 3, 1])?.contiguous()?.permute([0, 3, 1, 2])
    }
}
