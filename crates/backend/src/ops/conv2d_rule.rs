//! `Conv2d`: stride, padding, dilation and groups of a two-dimensional convolution, and the extents of its output.

/// A two-dimensional convolution (cross-correlation, as deep learning calls it): how the kernel moves. Pairs are height
/// first. Padding is with zeros and the same on both sides; other kinds of padding are a separate operation beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    /// Distance between neighboring positions of the kernel; at least 1.
    pub stride: [usize; 2],
    /// Rows and columns of zeros on each side.
    pub padding: [usize; 2],
    /// Distance between neighboring taps of the kernel; at least 1.
    pub dilation: [usize; 2],
    /// Number of groups that the channels are divided into, each convolved on its own; it divides both channel counts.
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

    /// Height and width of the transposed convolution's output:
    /// `(input - 1) stride - 2 padding + dilation (kernel - 1) + extra + 1`. `None` if it is not positive, or where
    /// [`output`](Conv2d::output) is `None`.
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

/// The extent that a dilated kernel spans: from its first tap to the end of its last.
pub(super) fn reach(kernel: usize, dilation: usize) -> Option<usize> {
    if dilation == 0 {
        return None;
    }
    kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)
}
