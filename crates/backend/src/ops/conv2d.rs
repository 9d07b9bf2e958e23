//! Two-dimensional convolution and its gradients.

use crate::{Error, Layout, Result, View, ViewMut};

/// A two-dimensional convolution (cross-correlation, as deep learning calls it): how the kernel moves. Pairs are
/// height first. Padding is of zeros and the same on both sides; other kinds are an operation before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    /// Steps of the kernel; at least 1.
    pub stride: [usize; 2],
    /// Rows and columns of zeros on each side.
    pub padding: [usize; 2],
    /// Distance of the kernel's taps; at least 1.
    pub dilation: [usize; 2],
    /// The channels are cut into this many groups that do not see each other; it divides the channels on both sides.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Conv2d {
        Conv2d { stride: [1; 2], padding: [0; 2], dilation: [1; 2], groups: 1 }
    }
}

impl Conv2d {
    /// Height and width of the result: `floor((input + 2 padding - dilation (kernel - 1) - 1) / stride) + 1`. `None` if
    /// the kernel does not fit into the padded input, or a stride, dilation or kernel extent is 0.
    #[must_use]
    pub fn output(&self, input: [usize; 2], kernel: [usize; 2]) -> Option<[usize; 2]> {
        let along = |axis: usize| {
            let padded = input[axis].checked_add(self.padding[axis].checked_mul(2)?)?;
            let room = padded.checked_sub(reach(kernel[axis], self.dilation[axis])?)?;
            Some(room.checked_div(self.stride[axis])? + 1)
        };
        Some([along(0)?, along(1)?])
    }

    /// Height and width of the transposed convolution's result:
    /// `(input - 1) stride - 2 padding + dilation (kernel - 1) + extra + 1`. `None` if it is not positive, or as in
    /// [`output`](Conv2d::output).
    #[must_use]
    pub fn transposed_output(&self, input: [usize; 2], kernel: [usize; 2], extra: [usize; 2]) -> Option<[usize; 2]> {
        let along = |axis: usize| {
            let steps = input[axis].checked_sub(1)?.checked_mul(self.stride[axis])?;
            let full = steps.checked_add(reach(kernel[axis], self.dilation[axis])?)?.checked_add(extra[axis])?;
            full.checked_sub(self.padding[axis].checked_mul(2)?).filter(|&extent| extent > 0 && self.stride[axis] > 0)
        };
        Some([along(0)?, along(1)?])
    }
}

/// Extents of a convolution whose operands fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dExtents {
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Channels of a group of the input.
    pub group_in: usize,
    /// Channels of a group of the output.
    pub group_out: usize,
}

impl Conv2d {
    /// Checks that an input `[N, C, H, W]`, a weight `[O, C / groups, kh, kw]` and an output `[N, O, H', W']` fit together,
    /// in any of the three directions, and that positions of taps are signed numbers without overflow.
    ///
    /// # Errors
    /// They do not.
    pub fn check(&self, op: &'static str, x: &Layout, w: &Layout, y: &Layout) -> Result<Conv2dExtents> {
        let (&[n, c, h, wide], &[o, group_in, kh, kw], &[yn, yo, yh, yw]) = (x.dims(), w.dims(), y.dims()) else {
            return Err(Error::shapes(op, x.shape(), w.shape(), "images and a weight have 4 dimensions"));
        };
        let groups = self.groups;
        if groups == 0 || o % groups != 0 || c % groups != 0 || c / groups != group_in {
            return Err(Error::shapes(op, x.shape(), w.shape(), format!("channels in {groups} groups")));
        }
        if yn != n || yo != o || self.output([h, wide], [kh, kw]) != Some([yh, yw]) {
            return Err(Error::shapes(op, x.shape(), y.shape(), format!("a kernel [{kh}, {kw}] with {self:?}")));
        }
        let far = |axis: usize, extent: usize, k: usize| {
            let reach = extent.checked_mul(self.stride[axis])?.checked_add(k.checked_mul(self.dilation[axis])?)?;
            reach.checked_add(self.padding[axis]).filter(|&reach| reach < isize::MAX as usize / 2)
        };
        if far(0, h.max(yh), kh).and(far(1, wide.max(yw), kw)).is_none() {
            return Err(Error::argument(op, format!("{self:?} reaches too far")));
        }
        Ok(Conv2dExtents { kernel: [kh, kw], group_in, group_out: o / groups })
    }
}

/// From the first to behind the last tap of a kernel.
pub(super) fn reach(kernel: usize, dilation: usize) -> Option<usize> {
    if dilation == 0 {
        return None;
    }
    kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)
}

/// Two-dimensional convolution. Images are `[N, C, H, W]` with any strides, channels-last ones included.
pub trait Conv2dBackend {
    /// The convolution, plus bias, then ReLU if asked: `x` is `[N, C, H, W]`, `w` `[O, C / groups, kh, kw]`, `bias`
    /// `[O]`, `out` `[N, O, H', W']` of [`Conv2d::output`]'s size. Half precision is summed in `f32`. With no channels
    /// (`C = 0`) the sums are 0.
    fn conv2d(&self, rule: &Conv2d, x: View, w: View, bias: Option<View>, relu: bool, out: ViewMut) -> Result<()>;
    /// Its gradient with respect to the input, which is also the transposed convolution: `grad` is `[N, O, H', W']`,
    /// `out` `[N, C, H, W]`, of any size that `rule` maps to `grad`'s.
    fn conv2d_grad_input(&self, rule: &Conv2d, grad: View, w: View, out: ViewMut) -> Result<()>;
    /// Its gradient with respect to the weight: `out` is `[O, C / groups, kh, kw]`. (That of the bias is a sum.)
    fn conv2d_grad_weight(&self, rule: &Conv2d, grad: View, x: View, out: ViewMut) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_sizes() {
        let rule = Conv2d { stride: [2, 1], padding: [3, 0], dilation: [1, 2], groups: 1 };
        assert_eq!(rule.output([224, 9], [7, 3]), Some([112, 5]));
        assert_eq!(rule.output([224, 4], [7, 3]), None);
        assert_eq!(rule.output([1, 5], [7, 3]), Some([1, 1]));
        assert_eq!(rule.transposed_output([112, 5], [7, 3], [1, 0]), Some([224, 9]));
        assert_eq!(Conv2d { padding: [5; 2], ..Conv2d::default() }.transposed_output([2; 2], [3; 2], [0; 2]), None);
        for bad in [Conv2d { stride: [0; 2], ..rule }, Conv2d { dilation: [0; 2], ..rule }] {
            assert_eq!((bad.output([9; 2], [3; 2]), bad.transposed_output([9; 2], [3; 2], [0; 2])), (None, None));
        }
        assert_eq!(Conv2d { padding: [usize::MAX; 2], ..rule }.output([9; 2], [3; 2]), None);
        assert_eq!(rule.output([9; 2], [0; 2]), None);
    }
}
