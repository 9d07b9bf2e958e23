//! `im2col` and `col2im`: the blocks of an image under a sliding window as columns, and the sum of such blocks.

use kiln_backend::{DType, Error, Result};
use kiln_derive::located;

use super::{check, images::batched_of, pad::PadMode};
use crate::tensor::Tensor;

/// A window that slides over images, for [`Tensor::im2col`] and [`Tensor::col2im`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    /// Rows and columns.
    pub kernel_size: [usize; 2],
    /// The distance of the window's elements.
    pub dilation: [usize; 2],
    /// Zeros on each side of the image.
    pub padding: [usize; 2],
    /// The distance of blocks.
    pub stride: [usize; 2],
}

impl SlidingWindow {
    /// A window without padding or dilation, that moves by one element.
    #[must_use]
    pub fn new(kernel_size: [usize; 2]) -> SlidingWindow {
        SlidingWindow { kernel_size, dilation: [1; 2], padding: [0; 2], stride: [1; 2] }
    }

    /// How many blocks there are in each direction of an image, and the extents of the padded one.
    fn blocks(&self, op: &'static str, image: [usize; 2]) -> Result<[(usize, usize); 2]> {
        let mut found = [(0, 0); 2];
        for (axis, found) in found.iter_mut().enumerate() {
            let (kernel, dilation, stride) = (self.kernel_size[axis], self.dilation[axis], self.stride[axis]);
            let whole = self.padding[axis].checked_mul(2).and_then(|sides| sides.checked_add(image[axis]));
            let reach = kernel.checked_sub(1).and_then(|steps| steps.checked_mul(dilation));
            match (whole, reach) {
                (Some(whole), Some(reach)) if dilation > 0 && stride > 0 && reach < whole => {
                    *found = ((whole - reach - 1) / stride + 1, whole);
                }
                _ => return Err(Error::argument(op, format!("{self:?} has no place in an image of {image:?}"))),
            }
        }
        Ok(found)
    }

    /// The place of each element of each block in the padded image, row by row: `[kernel, kernel, blocks, blocks]`, flattened.
    fn places(&self, x: &Tensor, blocks: [(usize, usize); 2]) -> Result<Tensor> {
        let along = |axis: usize| {
            let range = |n: usize, step: usize| Tensor::arange(0, n as i64, (DType::I64, x.device()))?.mul(step as i64);
            range(self.kernel_size[axis], self.dilation[axis])?
                .unsqueeze(1)?
                .add(&range(blocks[axis].0, self.stride[axis])?)
        };
        let [(_, _), (_, width)] = blocks;
        let rows = along(0)?.mul(width as i64)?.unsqueeze(1)?.unsqueeze(3)?;
        rows.add(&along(1)?.unsqueeze(1)?)?.flatten_all()
    }
}

#[located]
impl Tensor {
    /// The blocks of images `[N, C, H, W]` or `[C, H, W]` under a sliding window, as columns: `[N, C · kernel elements, blocks]`.
    /// PyTorch's `nn.functional.unfold` (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Unfold.html>).
    ///
    /// # Errors
    /// If there are other dimensions, the elements are not floating-point, or the window does not fit.
    pub fn im2col(&self, window: SlidingWindow) -> Result<Tensor> {
        const OP: &str = "im2col";
        batched_of(OP, 2, self, |x| {
            check::floats(OP, x)?;
            let (n, c, h, w) = x.dims4()?;
            let blocks = window.blocks(OP, [h, w])?;
            let [ph, pw] = window.padding.map(|side| side as i64);
            let padded = x.pad(&[pw, pw, ph, ph], PadMode::Constant(0.0))?;
            let [kh, kw] = window.kernel_size;
            let columns = padded.flatten(2, 3)?.index_select(2, &window.places(x, blocks)?)?;
            columns.reshape([n, c * kh * kw, blocks[0].0 * blocks[1].0])
        })
    }

    /// Adds up blocks, `[N, C · kernel elements, blocks]` or without `N`, where a sliding window takes them from images of this size:
    /// `[N, C, H, W]`. PyTorch's `nn.functional.fold` (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Fold.html>).
    ///
    /// # Errors
    /// If the dimensions are not those of such blocks, the elements are not floating-point, or the window does not fit.
    pub fn col2im(&self, size: [usize; 2], window: SlidingWindow) -> Result<Tensor> {
        const OP: &str = "col2im";
        check::floats(OP, self)?;
        if self.rank() == 2 {
            return self.unsqueeze(0)?.col2im(size, window)?.squeeze(0);
        }
        let blocks = window.blocks(OP, size)?;
        let ([kh, kw], [(down, _), (across, _)]) = (window.kernel_size, blocks);
        let (per_channel, count) = (kh.saturating_mul(kw), down.saturating_mul(across));
        let [n, rows, columns] = *self.dims() else {
            return Err(Error::shape(OP, "blocks [N, C * kernel elements, blocks]", self.shape()));
        };
        if !rows.is_multiple_of(per_channel) || columns != count {
            let expected = format!("[N, C * {per_channel}, {count}]");
            return Err(Error::shape(OP, expected, self.shape()));
        }
        let ([(_, height), (_, width)], [ph, pw]) = (blocks, window.padding);
        let channels = rows / per_channel;
        let flat = self.reshape([n, channels, per_channel * count])?;
        let zeros = Tensor::zeros([n, channels, height * width], self.options())?;
        let sums = zeros.index_add(2, &window.places(self, blocks)?, &flat)?;
        sums.reshape([n, channels, height, width])?.narrow(2, ph, size[0])?.narrow(3, pw, size[1])?.contiguous()
    }
}
