//! How the kernel of a convolution moves: stride, padding, dilation and groups, and the extents that follow.

use crate::{
    contract::{has_dtype, is_float},
    dtype::DType,
    error::{Error, Result},
    layout::Layout,
};

/// A convolution (cross-correlation, as deep learning calls it) in `N` dimensions: how the kernel moves. Numbers are in the
/// order of the dimensions: depth, height, width. Padding is with zeros and the same on both sides; other kinds of padding
/// are a separate operation beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution<const N: usize> {
    /// Distance between neighboring positions of the kernel; at least 1.
    pub stride: [usize; N],
    /// Rows and columns of zeros on each side.
    pub padding: [usize; N],
    /// Distance between neighboring taps of the kernel; at least 1.
    pub dilation: [usize; N],
    /// Number of groups that the channels are divided into, each convolved on its own; it divides both channel counts.
    pub groups: usize,
}

/// A convolution along one dimension.
pub type Conv1d = Convolution<1>;
/// A convolution over height and width.
pub type Conv2d = Convolution<2>;
/// A convolution over depth, height and width.
pub type Conv3d = Convolution<3>;

impl<const N: usize> Default for Convolution<N> {
    fn default() -> Convolution<N> {
        Convolution { stride: [1; N], padding: [0; N], dilation: [1; N], groups: 1 }
    }
}

impl<const N: usize> Convolution<N> {
    /// The extents of the result: `floor((input + 2 padding - dilation (kernel - 1) - 1) / stride) + 1`. `None` if the
    /// kernel does not fit into the padded input, or a stride, dilation or kernel extent is 0.
    #[must_use]
    pub fn output(&self, input: [usize; N], kernel: [usize; N]) -> Option<[usize; N]> {
        extents(|axis| {
            let padded = input[axis].checked_add(self.padding[axis].checked_mul(2)?)?;
            let room = padded.checked_sub(reach(kernel[axis], self.dilation[axis])?)?;
            Some(room.checked_div(self.stride[axis])? + 1)
        })
    }

    /// The extents of the transposed convolution's output:
    /// `(input - 1) stride - 2 padding + dilation (kernel - 1) + extra + 1`. `None` if one is not positive, or where
    /// [`output`](Convolution::output) is `None`.
    #[must_use]
    pub fn transposed_output(&self, input: [usize; N], kernel: [usize; N], extra: [usize; N]) -> Option<[usize; N]> {
        extents(|axis| {
            let steps = input[axis].checked_sub(1)?.checked_mul(self.stride[axis])?;
            let full = steps.checked_add(reach(kernel[axis], self.dilation[axis])?)?.checked_add(extra[axis])?;
            full.checked_sub(self.padding[axis].checked_mul(2)?).filter(|&extent| extent > 0 && self.stride[axis] > 0)
        })
    }

    /// Checks that an input `[N, C, …]`, a weight `[O, C / groups, …]` and an output `[N, O, …]`, each with the spatial
    /// dimensions last, fit together, in any of the three directions, and that the positions of taps do not overflow.
    pub(super) fn check(
        &self,
        op: &'static str,
        x: (&Layout, DType),
        w: (&Layout, DType),
        y: (&Layout, DType),
    ) -> Result<()> {
        is_float(op, x.1)?;
        has_dtype(op, x.1, w.1)?;
        has_dtype(op, x.1, y.1)?;
        let (x, w, y) = (x.0, w.0, y.0);
        let (Some(([n, c], size)), Some(([o, group_in], kernel)), Some(([yn, yo], y_size))) =
            (split(x), split(w), split(y))
        else {
            let expected = format!("the input and a weight have {} dimensions", N + 2);
            return Err(Error::shapes(op, x.shape(), w.shape(), expected));
        };
        let groups = self.groups;
        if groups == 0 || o % groups != 0 || c % groups != 0 || c / groups != group_in {
            let kernel = ["", "k", "kh, kw", "kd, kh, kw"].get(N).copied().unwrap_or("…");
            let expected = format!("a weight [O, C / groups, {kernel}] for {groups} groups");
            return Err(Error::shapes(op, x.shape(), w.shape(), expected));
        }
        if yn != n || yo != o || self.output(size, kernel) != Some(y_size) {
            let expected = format!("the sizes before and after a kernel {kernel:?} with {self:?}");
            return Err(Error::shapes(op, x.shape(), y.shape(), expected));
        }
        let far = |axis: usize| {
            let reach = size[axis].max(y_size[axis]).checked_mul(self.stride[axis])?;
            let reach = reach.checked_add(kernel[axis].checked_mul(self.dilation[axis])?)?;
            reach.checked_add(self.padding[axis]).filter(|&reach| reach < isize::MAX as usize / 2)
        };
        if (0..N).any(|axis| far(axis).is_none()) {
            return Err(Error::argument(op, format!("{self:?} has taps too far apart to address")));
        }
        Ok(())
    }
}

/// The first two extents of a tensor and the `N` others.
fn split<const N: usize>(layout: &Layout) -> Option<([usize; 2], [usize; N])> {
    let (first, rest) = layout.dims().split_first_chunk()?;
    Some((*first, rest.try_into().ok()?))
}

/// The extents along all axes, if there is one along each.
fn extents<const N: usize>(along: impl Fn(usize) -> Option<usize>) -> Option<[usize; N]> {
    let mut all = [0; N];
    for (axis, extent) in all.iter_mut().enumerate() {
        *extent = along(axis)?;
    }
    Some(all)
}

/// The extent that a dilated kernel spans: from its first tap to the end of its last.
pub(super) fn reach(kernel: usize, dilation: usize) -> Option<usize> {
    if dilation == 0 {
        return None;
    }
    kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)
}
