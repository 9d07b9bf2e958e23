//! Which input pixels an output pixel sees: what forward convolutions and both gradients have in common.

use kiln_backend::Conv2d;

use super::Compute;
use crate::engine::image::{Image, Run};

/// Output pixel `q` sees the input pixels `q * step + offset`, one for each offset; those outside are 0.
pub(crate) struct Taps {
    pub step: [usize; 2],
    pub offsets: Vec<[isize; 2]>,
    /// For each offset the number of the kernel's tap (`ky * kw + kx`) that it belongs to.
    pub of_kernel: Vec<usize>,
}

/// Where a [`Run`] of output pixels looks at, before a tap's offset.
#[derive(Clone, Copy)]
pub(crate) struct Sight {
    /// Offset of the pixel that the first one looks at, in channel 0.
    at: isize,
    y: isize,
    x: isize,
    len: usize,
}

impl Taps {
    /// Those of a convolution.
    pub(crate) fn forward(rule: &Conv2d, kernel: [usize; 2]) -> Taps {
        let offset = |axis: usize, k: usize| (k * rule.dilation[axis]) as isize - rule.padding[axis] as isize;
        let all = (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |x| [y, x]));
        let offsets = all.map(|[y, x]| [offset(0, y), offset(1, x)]).collect();
        Taps { step: rule.stride, offsets, of_kernel: (0..kernel[0] * kernel[1]).collect() }
    }

    /// Those through which the input pixels `stride * q + phase` of a convolution see the gradient of its output:
    /// tap `k` brought input pixel `stride * o - padding + k * dilation` to output pixel `o`.
    pub(crate) fn backward(rule: &Conv2d, kernel: [usize; 2], phase: [usize; 2]) -> Taps {
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

    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Where the output pixels of `runs` look at the image, before a tap's offset.
    pub(crate) fn sights<P: Copy>(&self, image: &Image<P>, runs: &[Run]) -> Vec<Sight> {
        let place = |run: &Run| {
            let (y, x) = (run.y * self.step[0], run.x * self.step[1]);
            Sight { at: image.at(run.n, 0, y, x), y: y as isize, x: x as isize, len: run.len }
        };
        runs.iter().map(place).collect()
    }

    /// Writes what the output pixels of `sights` see of channel `c` through tap `tap`, one after the other.
    ///
    /// # Safety
    /// The image is readable, the sights are of its images, the channel is in it, and `out` is writable for all pixels.
    pub(crate) unsafe fn line<T: Compute>(
        &self,
        image: &Image<T>,
        c: usize,
        tap: usize,
        sights: &[Sight],
        mut out: *mut T,
    ) {
        let [_, sc, sh, sw] = image.strides;
        let (zero, [dy, dx], step) = (T::of(0.0), self.offsets[tap], self.step[1] as isize);
        let (h, w) = (image.h as isize, image.w as isize);
        let plane = image.ptr.offset(c as isize * sc + dy * sh + dx * sw);
        for &Sight { at, y, x, len } in sights {
            let (y, x, last) = (y + dy, x + dx, x + dx + (len as isize - 1) * step);
            // SAFETY: pixels inside the image, by the caller's promise in range; `out` has room for the run.
            unsafe {
                if y < 0 || y >= h {
                    std::slice::from_raw_parts_mut(out, len).fill(zero);
                } else if x >= 0 && last < w {
                    plane.offset(at).gather(step * sw, len, out);
                } else {
                    // The pixels `low..high` of the run see the inside of the image.
                    let before = |x: isize| match x.max(0) {
                        x if step == 1 => x as usize, // division takes long
                        x => ((x + step - 1) / step) as usize,
                    };
                    let low = before(-x).min(len);
                    let high = before(w - x).clamp(low, len);
                    std::slice::from_raw_parts_mut(out, low).fill(zero);
                    let first = at + low as isize * step * sw;
                    plane.offset(first).gather(step * sw, high - low, out.add(low));
                    std::slice::from_raw_parts_mut(out.add(high), len - high).fill(zero);
                }
                out = out.add(len);
            }
        }
    }
}
