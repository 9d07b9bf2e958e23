//! Which input pixels an output pixel sees: what forward convolutions and both gradients have in common.

use kiln_backend::Conv2d;

use super::{
    Compute,
    image::{Image, Run, gather},
};
use crate::stored::Stored;

/// Output pixel `q` sees the input pixels `q * step + offset`, one for each offset; those outside are 0.
pub(super) struct Taps {
    pub step: [usize; 2],
    pub offsets: Vec<[isize; 2]>,
    /// For each offset the number of the kernel's tap (`ky * kw + kx`) that it belongs to.
    pub of_kernel: Vec<usize>,
}

impl Taps {
    /// Those of a convolution.
    pub(super) fn forward(rule: &Conv2d, kernel: [usize; 2]) -> Taps {
        let offset = |axis: usize, k: usize| (k * rule.dilation[axis]) as isize - rule.padding[axis] as isize;
        let all = (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |x| [y, x]));
        let offsets = all.map(|[y, x]| [offset(0, y), offset(1, x)]).collect();
        Taps { step: rule.stride, offsets, of_kernel: (0..kernel[0] * kernel[1]).collect() }
    }

    /// Those through which the input pixels `stride * q + phase` of a convolution see the gradient of its output:
    /// tap `k` brought input pixel `stride * o - padding + k * dilation` to output pixel `o`.
    pub(super) fn backward(rule: &Conv2d, kernel: [usize; 2], phase: [usize; 2]) -> Taps {
        let offset = |axis: usize, k: usize| {
            let distance = (phase[axis] + rule.padding[axis]) as isize - (k * rule.dilation[axis]) as isize;
            let stride = rule.stride[axis] as isize;
            (distance % stride == 0).then_some(distance / stride)
        };
        let mut taps = Taps { step: [1; 2], offsets: Vec::new(), of_kernel: Vec::new() };
        for y in 0..kernel[0] {
            for x in 0..kernel[1] {
                if let (Some(dy), Some(dx)) = (offset(0, y), offset(1, x)) {
                    taps.offsets.push([dy, dx]);
                    taps.of_kernel.push(y * kernel[1] + x);
                }
            }
        }
        taps
    }

    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Writes what the output pixels of `runs` see of channel `c` through tap `tap`, one after the other.
    ///
    /// # Safety
    /// The image is readable, the runs' images and the channel are in it, and `out` is writable for all pixels.
    pub(super) unsafe fn line<S: Stored<Compute = T>, T: Compute>(
        &self,
        image: &Image<*const S>,
        c: usize,
        tap: usize,
        runs: &[Run],
        mut out: *mut T,
    ) {
        let (zero, [dy, dx], step) = (T::of(0.0), self.offsets[tap], self.step[1] as isize);
        for run in runs {
            let y = (run.y * self.step[0]) as isize + dy;
            let x = run.x as isize * step + dx;
            // The pixels `low..high` of the run see the inside of the image.
            let (low, high) = if y < 0 || y >= image.h as isize {
                (0, 0)
            } else {
                let before = |x: isize| if x <= 0 { 0 } else { ((x + step - 1) / step) as usize };
                let low = before(-x).min(run.len);
                (low, before(image.w as isize - x).clamp(low, run.len))
            };
            // SAFETY: `low..high` are inside the image and the run, by the caller's promise in range.
            unsafe {
                for i in (0..low).chain(high..run.len) {
                    *out.add(i) = zero;
                }
                if low < high {
                    let first = (x + low as isize * step) as usize;
                    let from = image.ptr.offset(image.at(run.n, c, y as usize, first));
                    gather(from, step * image.strides[3], high - low, out.add(low));
                }
                out = out.add(run.len);
            }
        }
    }
}
