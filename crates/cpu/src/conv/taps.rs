//! `Taps` lists the input pixels that each output pixel reads. The gradient with respect to the input reuses it, once per
//! residue class of pixels modulo the stride.

use kiln_backend::Conv2d;

use crate::{
    engine::image::{Image, PixelRun},
    numeric::real::Real,
};

/// Output pixel `q` reads the input pixels `q * step + offset`, one for each offset; those outside the image are 0.
pub(crate) struct Taps {
    pub step: [usize; 2],
    pub offsets: Vec<[isize; 2]>,
    /// For each offset the position in the kernel, `ky * kw + kx`.
    pub kernel_taps: Vec<usize>,
}

/// The start of the inputs of a [`PixelRun`] of output pixels, before a tap's offset is added.
#[derive(Clone, Copy)]
pub(crate) struct InputRun {
    /// Offset in memory of the first pixel, in channel 0.
    at: isize,
    /// The depth of its image.
    depth: isize,
    y: isize,
    x: isize,
    len: usize,
}

impl Taps {
    /// The taps of a forward convolution.
    pub(crate) fn forward(rule: &Conv2d, kernel: [usize; 2]) -> Taps {
        let offset = |axis: usize, k: usize| (k * rule.dilation[axis]) as isize - rule.padding[axis] as isize;
        let all = (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |x| [y, x]));
        let offsets = all.map(|[y, x]| [offset(0, y), offset(1, x)]).collect();
        Taps { step: rule.stride, offsets, kernel_taps: (0..kernel[0] * kernel[1]).collect() }
    }

    /// The taps through which the gradient of the input pixels `stride * q + phase` reads the gradient of the output. In the
    /// forward convolution, tap `k` of output pixel `o` reads input pixel `stride * o - padding + k * dilation`.
    pub(crate) fn backward(rule: &Conv2d, kernel: [usize; 2], phase: [usize; 2]) -> Taps {
        let offset = |axis: usize, k: usize| {
            let distance = (phase[axis] + rule.padding[axis]) as isize - (k * rule.dilation[axis]) as isize;
            let stride = rule.stride[axis] as isize;
            (distance % stride == 0).then_some(distance / stride)
        };
        let mut taps = Taps { step: [1; 2], offsets: Vec::new(), kernel_taps: Vec::new() };
        for y in 0..kernel[0] {
            for x in 0..kernel[1] {
                if let (Some(dy), Some(dx)) = (offset(0, y), offset(1, x)) {
                    taps.offsets.push([dy, dx]);
                    taps.kernel_taps.push(y * kernel[1] + x);
                }
            }
        }
        taps
    }

    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// The starts of the inputs of the output pixels in `runs`.
    pub(crate) fn input_runs<P: Copy>(&self, image: &Image<P>, runs: &[PixelRun]) -> Vec<InputRun> {
        let place = |run: &PixelRun| {
            let (y, x) = (run.y * self.step[0], run.x * self.step[1]);
            let (at, depth) = (image.at(run.n, 0, y, x), image.depth_of_image(run.n));
            InputRun { at, depth, y: y as isize, x: x as isize, len: run.len }
        };
        runs.iter().map(place).collect()
    }

    /// Copies the pixels of channel `c` that tap `tap` reads for all output pixels: a row of the im2col matrix.
    ///
    /// # Safety
    /// The image is readable, the runs are of its images, the channel is in it, and `out` is writable for all pixels.
    pub(crate) unsafe fn gather_tap<T: Real>(
        &self,
        image: &Image<T>,
        c: usize,
        tap: usize,
        input_runs: &[InputRun],
        mut out: *mut T,
    ) {
        let [.., sh, sw] = image.strides;
        let (zero, [dy, dx], step) = (T::of(0.0), self.offsets[tap], self.step[1] as isize);
        let ((h, w), (deeper, inside)) = ((image.h as isize, image.w as isize), image.depth_of_channel(c));
        let plane = image.ptr.offset(image.channel(c) + dy * sh + dx * sw);
        for &InputRun { at, depth, y, x, len } in input_runs {
            let (y, x, last) = (y + dy, x + dx, x + dx + (len as isize - 1) * step);
            // SAFETY: pixels inside the image, by the caller's promise in range; `out` has room for the run.
            unsafe {
                if y < 0 || y >= h || (depth + deeper) as usize >= inside {
                    std::slice::from_raw_parts_mut(out, len).fill(zero);
                } else if x >= 0 && last < w {
                    plane.offset(at).gather(step * sw, len, out);
                } else {
                    // The pixels `low..high` of the run read the inside of the image.
                    let before = |x: isize| match x.max(0) {
                        x if step == 1 => x as usize, // division takes long
                        x => ((x + step - 1) / step) as usize,
                    };
                    let low = before(-x).min(len);
                    let high = before(w - x).clamp(low, len);
                    fill(out, low, zero);
                    let first = at + low as isize * step * sw;
                    plane.offset(first).gather(step * sw, high - low, out.add(low));
                    fill(out.add(high), len - high, zero);
                }
                out = out.add(len);
            }
        }
    }
}

/// Fills the border of a row, which is a single element more often than not: too short for a call of `memset`.
///
/// # Safety
/// `to` is writable for `n` elements.
#[inline(always)]
unsafe fn fill<T: Copy>(to: *mut T, n: usize, value: T) {
    // SAFETY: the caller's promise.
    unsafe {
        if n == 1 {
            *to = value;
        } else if n > 1 {
            std::slice::from_raw_parts_mut(to, n).fill(value);
        }
    }
}
