//! Tests of `conv3d` and its gradients, against direct evaluation of the definitions.

use kiln_backend::{Arguments, Conv3d, Conv3dArgs, Conv3dBackend, Conv3dGradInputArgs, Conv3dGradWeightArgs, DType};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, assert_close, layouts, numbers, read_layouts};

/// What is convolved: input `[N, C, D, H, W]`, output channels, kernel, rule.
struct Case {
    x: [usize; 5],
    o: usize,
    kernel: [usize; 3],
    rule: Conv3d,
}

impl Case {
    fn w(&self) -> [usize; 5] {
        let [kd, kh, kw] = self.kernel;
        [self.o, self.x[1] / self.rule.groups, kd, kh, kw]
    }

    fn y(&self) -> [usize; 5] {
        let [d, h, w] = self.rule.output([self.x[2], self.x[3], self.x[4]], self.kernel).unwrap();
        [self.x[0], self.o, d, h, w]
    }

    /// Calls `f` with the positions of the output, input and weight of every product.
    fn each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let ([n, c, size @ ..], [_, oc, out @ ..], [_, cg, ..]) = (self.x, self.y(), self.w());
        let positions =
            |[d, h, w]: [usize; 3]| (0..d).flat_map(move |z| (0..h).flat_map(move |y| (0..w).map(move |x| [z, y, x])));
        let flat = |[z, y, x]: [usize; 3], [_, h, w]: [usize; 3]| (z * h + y) * w + x;
        let volume = |extents: [usize; 3]| extents.iter().product::<usize>();
        for (n, o) in (0..n).flat_map(|n| (0..oc).map(move |o| (n, o))) {
            let group = o / (oc / self.rule.groups);
            for (at, tap) in positions(out).flat_map(|at| positions(self.kernel).map(move |tap| (at, tap))) {
                let met: Vec<usize> = (0..3)
                    .filter_map(|axis| {
                        let place = at[axis] * self.rule.stride[axis] + tap[axis] * self.rule.dilation[axis];
                        place.checked_sub(self.rule.padding[axis]).filter(|&place| place < size[axis])
                    })
                    .collect();
                let Ok(met) = <[usize; 3]>::try_from(met) else { continue };
                for ci in 0..cg {
                    let input = (n * c + group * cg + ci) * volume(size) + flat(met, size);
                    let weight = (o * cg + ci) * volume(self.kernel) + flat(tap, self.kernel);
                    f((n * oc + o) * volume(out) + flat(at, out), input, weight);
                }
            }
        }
    }

    /// The output without a bias, and the gradients of input and weight, by definition.
    fn expected(&self, [xs, ws, gs]: [&[f64]; 3]) -> [Vec<f64>; 3] {
        let [mut y, mut dx, mut dw] = [&self.y(), &self.x, &self.w()].map(|dims| vec![0.0; numel(dims)]);
        self.each(|o, i, k| {
            y[o] += xs[i] * ws[k];
            dx[i] += gs[o] * ws[k];
            dw[k] += gs[o] * xs[i];
        });
        [y, dx, dw]
    }
}

fn numel(dims: &[usize]) -> usize {
    dims.iter().product()
}

fn forward(case: &Case, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, out: &mut Tensor) {
    let (x, w, bias, out) = (x.view(), w.view(), bias.map(Tensor::view), out.view_mut());
    CpuBackend.conv3d(Conv3dArgs { rule: case.rule, x, w, bias, out }.checked().unwrap()).unwrap();
}

fn grad_input(case: &Case, grad: &Tensor, w: &Tensor, out: &mut Tensor) {
    let (grad, w, out) = (grad.view(), w.view(), out.view_mut());
    CpuBackend.conv3d_grad_input(Conv3dGradInputArgs { rule: case.rule, grad, w, out }.checked().unwrap()).unwrap();
}

fn grad_weight(case: &Case, grad: &Tensor, x: &Tensor, out: &mut Tensor) {
    let (grad, x, out) = (grad.view(), x.view(), out.view_mut());
    CpuBackend.conv3d_grad_weight(Conv3dGradWeightArgs { rule: case.rule, grad, x, out }.checked().unwrap()).unwrap();
}

fn rule(stride: [usize; 3], padding: [usize; 3], dilation: [usize; 3], groups: usize) -> Conv3d {
    Conv3d { stride, padding, dilation, groups }
}

fn cases() -> Vec<Case> {
    let plain = Conv3d::default();
    let case = |x, o, kernel, rule| Case { x, o, kernel, rule };
    vec![
        case([2, 3, 5, 6, 4], 4, [3, 3, 3], rule([1; 3], [1; 3], [1; 3], 1)),
        // All numbers differ.
        case([2, 2, 7, 9, 11], 3, [3, 2, 4], rule([2, 3, 1], [1, 0, 2], [2, 1, 3], 1)),
        case([1, 4, 8, 5, 6], 6, [2, 3, 1], rule([1, 2, 3], [3, 1, 0], [4, 2, 1], 2)),
        case([2, 3, 6, 5, 4], 3, [4, 1, 2], rule([3, 1, 2], [2, 0, 1], [1, 1, 2], 3)),
        // Strides and dilations of the depth with and without a common divisor; planes that no tap reads.
        case([1, 2, 13, 4, 5], 3, [3, 2, 2], rule([4, 1, 1], [3, 0, 0], [2, 1, 1], 1)),
        case([1, 2, 12, 4, 5], 3, [3, 2, 2], rule([6, 1, 1], [0, 0, 1], [4, 1, 1], 1)),
        case([2, 2, 9, 3, 4], 2, [1, 2, 2], rule([3, 2, 1], [0, 1, 0], [1, 1, 1], 1)),
        // Depths at which the whole kernel lies in the padding.
        case([1, 2, 2, 4, 3], 2, [2, 2, 2], rule([1; 3], [5, 0, 0], [3, 1, 1], 1)),
        // A kernel as deep as the volume; a volume of one plane.
        case([2, 3, 4, 5, 5], 4, [4, 1, 1], plain),
        case([2, 3, 1, 6, 5], 4, [3, 3, 2], rule([1; 3], [1, 1, 0], [1; 3], 1)),
        case([0, 2, 4, 4, 3], 2, [3, 3, 3], plain),
        case([2, 0, 4, 4, 3], 2, [3, 3, 3], rule([1; 3], [1; 3], [1; 3], 1)),
        case([2, 2, 4, 4, 3], 0, [3, 3, 3], plain),
    ]
}

#[test]
fn all_three_directions_in_every_layout_and_dtype() {
    for case in cases() {
        let (xd, wd, yd) = (case.x, case.w(), case.y());
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let many = if dtype == DType::F32 { 99 } else { 2 };
            for (i, from) in read_layouts(&xd).into_iter().take(many).enumerate() {
                let (weights, grads) = (read_layouts(&wd), read_layouts(&yd));
                let x = Tensor::with_layout(dtype, from, &numbers(numel(&xd), 1));
                let w = Tensor::with_layout(dtype, weights[i % weights.len()], &numbers(numel(&wd), 2));
                let g = Tensor::with_layout(dtype, grads[(i + 1) % grads.len()], &numbers(numel(&yd), 3));
                let bias = Tensor::new(dtype, &[case.o], &numbers(case.o, 4));
                let [y, dx, dw] = case.expected([&x.values(), &w.values(), &g.values()]);
                let (shifts, volume) = (bias.values(), yd[2] * yd[3] * yd[4]);
                let shifted: Vec<f64> = y.iter().enumerate().map(|(i, y)| y + shifts[i / volume % case.o]).collect();
                let bound = if matches!(dtype, DType::F32 | DType::F64) { 4000.0 * case.o as f64 } else { 4.0 };
                for to in layouts(&yd) {
                    let mut out = Tensor::with_layout(dtype, to, &vec![1.0; y.len()]);
                    forward(&case, &x, &w, None, &mut out);
                    assert_close(&out.values(), &y, dtype, bound, "conv3d");
                    forward(&case, &x, &w, Some(&bias), &mut out);
                    assert_close(&out.values(), &shifted, dtype, bound, "conv3d with bias");
                }
                for to in layouts(&xd) {
                    let mut out = Tensor::with_layout(dtype, to, &vec![1.0; dx.len()]);
                    grad_input(&case, &g, &w, &mut out);
                    assert_close(&out.values(), &dx, dtype, bound, "gradient of the input");
                }
                for to in layouts(&wd) {
                    let mut out = Tensor::with_layout(dtype, to, &vec![1.0; dw.len()]);
                    grad_weight(&case, &g, &x, &mut out);
                    assert_close(&out.values(), &dw, dtype, bound, "gradient of the weight");
                }
            }
        }
    }
}

/// Many channels: Winograd's algorithm with vectors of channels of one plane and of several, and the general one with many
/// blocks, each with the same bits for any number of threads.
#[test]
fn many_channels_are_the_same_convolution() {
    for (x, o, kernel, stride, padding, groups) in [
        ([2usize, 16, 4, 21, 19], 18usize, [3, 3, 3], [1, 1, 1], [1, 1, 1], 1),
        ([1, 34, 5, 30, 13], 40, [2, 3, 3], [2, 1, 1], [1, 0, 2], 2),
        ([3, 21, 3, 11, 10], 20, [3, 3, 3], [1, 1, 1], [2, 1, 0], 1),
        ([2, 70, 2, 7, 7], 66, [3, 3, 3], [1, 1, 1], [1, 1, 1], 1),
        ([1, 40, 6, 9, 8], 36, [3, 3, 3], [2, 2, 1], [1, 1, 0], 2),
    ] {
        let case = Case { x, o, kernel, rule: rule(stride, padding, [1; 3], groups) };
        let (xd, wd, yd) = (case.x, case.w(), case.y());
        for (dtype, bound) in [(DType::F32, 2e-5), (DType::BF16, 2e-2)] {
            let x = Tensor::new(dtype, &xd, &numbers(numel(&xd), 1));
            let w = Tensor::new(dtype, &wd, &numbers(numel(&wd), 2));
            let g = Tensor::new(dtype, &yd, &numbers(numel(&yd), 3));
            let want = case.expected([&x.values(), &w.values(), &g.values()]);
            let all = [1, 3].map(|threads| {
                let mut out = [&yd, &xd, &wd].map(|dims| Tensor::empty(dtype, dims));
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    forward(&case, &x, &w, None, &mut out[0]);
                    grad_input(&case, &g, &w, &mut out[1]);
                    grad_weight(&case, &g, &x, &mut out[2]);
                });
                out
            });
            for (i, (got, want)) in all[0].iter().zip(&want).enumerate() {
                let largest = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
                let off = got.values().iter().zip(want).fold(0.0f64, |a, (g, w)| a.max((g - w).abs()));
                assert!(off <= bound * largest, "result {i} of {:?}, {dtype}: off by {}", case.x, off / largest);
                assert_eq!(got.bytes(), all[1][i].bytes());
            }
        }
    }
}
