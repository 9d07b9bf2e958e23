//! Tests of `conv2d` and its gradients, against direct evaluation of the definitions.

use kiln_backend::{
    Arguments, Conv2d, Conv2dArgs, Conv2dBackend, Conv2dGradInputArgs, Conv2dGradWeightArgs, DType, Layout, Result,
    View, ViewMut,
};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, assert_close, layouts, numbers, read_layouts};

fn conv2d(rule: Conv2d, x: View, w: View, bias: Option<View>, relu: bool, out: ViewMut) -> Result<()> {
    CpuBackend.conv2d(Conv2dArgs { rule, x, w, bias, residual: None, relu, out }.checked()?)
}

fn conv2d_grad_input(rule: Conv2d, grad: View, w: View, out: ViewMut) -> Result<()> {
    CpuBackend.conv2d_grad_input(Conv2dGradInputArgs { rule, grad, w, out }.checked()?)
}

fn conv2d_grad_weight(rule: Conv2d, grad: View, x: View, out: ViewMut) -> Result<()> {
    CpuBackend.conv2d_grad_weight(Conv2dGradWeightArgs { rule, grad, x, out }.checked()?)
}

/// What is convolved: input `[N, C, H, W]`, output channels, kernel, rule.
struct Case {
    x: [usize; 4],
    o: usize,
    kernel: [usize; 2],
    rule: Conv2d,
}

impl Case {
    fn w(&self) -> [usize; 4] {
        [self.o, self.x[1] / self.rule.groups, self.kernel[0], self.kernel[1]]
    }

    fn y(&self) -> [usize; 4] {
        let [h, w] = self.rule.output([self.x[2], self.x[3]], self.kernel).unwrap();
        [self.x[0], self.o, h, w]
    }

    /// Calls `f` with the positions of the output, input and weight of every product.
    fn each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let ([n, c, h, w], [_, oc, oh, ow], [_, cg, kh, kw]) = (self.x, self.y(), self.w());
        let at = |axis: usize, o: usize, k: usize, extent: usize| {
            let p = o * self.rule.stride[axis] + k * self.rule.dilation[axis];
            p.checked_sub(self.rule.padding[axis]).filter(|&p| p < extent)
        };
        for n in 0..n {
            for o in 0..oc {
                let group = o / (oc / self.rule.groups);
                for (y, x) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
                    for ci in 0..cg {
                        for (ky, kx) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                            let (Some(iy), Some(ix)) = (at(0, y, ky, h), at(1, x, kx, w)) else { continue };
                            let input = ((n * c + group * cg + ci) * h + iy) * w + ix;
                            f(((n * oc + o) * oh + y) * ow + x, input, ((o * cg + ci) * kh + ky) * kw + kx);
                        }
                    }
                }
            }
        }
    }
}

fn numel(dims: &[usize]) -> usize {
    dims.iter().product()
}

fn rule(stride: [usize; 2], padding: [usize; 2], dilation: [usize; 2], groups: usize) -> Conv2d {
    Conv2d { stride, padding, dilation, groups }
}

fn cases() -> Vec<Case> {
    let plain = Conv2d::default();
    let case = |x, o, kernel, rule| Case { x, o, kernel, rule };
    vec![
        case([2, 3, 6, 5], 4, [3, 3], rule([1, 1], [1, 1], [1, 1], 1)),
        case([1, 2, 7, 9], 3, [3, 2], rule([2, 3], [1, 0], [1, 2], 1)),
        case([2, 4, 5, 5], 6, [1, 1], plain),
        case([2, 4, 5, 5], 6, [1, 1], rule([2, 2], [0, 0], [1, 1], 2)),
        case([3, 6, 4, 4], 6, [3, 3], rule([1, 1], [2, 2], [1, 1], 6)),
        case([1, 1, 20, 20], 5, [5, 5], rule([1, 1], [0, 0], [1, 1], 1)),
        case([2, 2, 3, 3], 2, [2, 2], rule([3, 3], [4, 5], [3, 2], 1)),
        case([1, 2, 1, 40], 2, [1, 7], rule([1, 2], [0, 3], [1, 1], 1)),
        // For kernels that read images in place: several images and tiles of channels, a tall image in parts of which
        // the last is shorter, and dilation.
        case([5, 3, 14, 13], 15, [5, 4], rule([1, 1], [1, 0], [1, 1], 1)),
        case([2, 2, 70, 40], 9, [3, 5], rule([1, 1], [1, 2], [1, 1], 1)),
        case([3, 4, 12, 15], 10, [3, 3], rule([1, 1], [2, 1], [2, 2], 2)),
        // The same with strides: residue classes that taps reach, and one that none does; bands of a large plane.
        case([2, 3, 13, 12], 9, [5, 5], rule([2, 2], [2, 2], [1, 1], 1)),
        case([1, 2, 23, 21], 3, [5, 4], rule([3, 4], [2, 1], [1, 2], 1)),
        case([1, 1, 139, 60], 1, [3, 2], rule([2, 1], [1, 1], [1, 1], 1)),
        // Every tap of the only output column lies in the padding: a tap that reached a pixel would belong to a column
        // past it.
        case([2, 2, 3, 2], 3, [2, 2], rule([1, 2], [0, 3], [1, 7], 1)),
        case([2, 2, 2, 3], 3, [2, 2], rule([2, 1], [3, 0], [7, 1], 1)),
        case([0, 2, 4, 4], 2, [3, 3], plain),
        case([2, 0, 4, 4], 2, [3, 3], rule([1, 1], [1, 1], [1, 1], 1)),
        case([2, 2, 4, 4], 0, [3, 3], plain),
    ]
}

#[test]
fn all_three_directions_in_every_layout_and_dtype() {
    for case in cases() {
        let (xd, wd, yd) = (case.x, case.w(), case.y());
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let many = if dtype == DType::F32 { 99 } else { 2 };
            let inputs = read_layouts(&xd).into_iter().take(many);
            for (i, from) in inputs.enumerate() {
                let weights = read_layouts(&wd);
                let x = Tensor::with_layout(dtype, from, &numbers(numel(&xd), 1));
                let w = Tensor::with_layout(dtype, weights[i % weights.len()], &numbers(numel(&wd), 2));
                let grads = read_layouts(&yd);
                let g = Tensor::with_layout(dtype, grads[(i + 1) % grads.len()], &numbers(numel(&yd), 3));
                let bias = Tensor::new(dtype, &[case.o], &numbers(case.o, 4));
                let (xs, ws, gs, bs) = (x.values(), w.values(), g.values(), bias.values());

                let plane = yd[2] * yd[3];
                let mut y = vec![0.0; numel(&yd)];
                let (mut dx, mut dw) = (vec![0.0; numel(&xd)], vec![0.0; numel(&wd)]);
                case.each(|o, i, k| {
                    y[o] += xs[i] * ws[k];
                    dx[i] += gs[o] * ws[k];
                    dw[k] += gs[o] * xs[i];
                });
                let shifted: Vec<f64> =
                    y.iter().enumerate().map(|(i, y)| (y + bs[i / plane % case.o]).max(0.0)).collect();
                // Sums of products of numbers up to 4; of hundreds of them where there are many channels.
                let exact = dtype == DType::F32 || dtype == DType::F64;
                let bound = if exact { 4000.0 * case.o as f64 } else { 4.0 };
                for to in layouts(&yd) {
                    let mut out = Tensor::with_layout(dtype, to, &vec![1.0; y.len()]);
                    conv2d(case.rule, x.view(), w.view(), None, false, out.view_mut()).unwrap();
                    assert_close(&out.values(), &y, dtype, bound, "conv2d");
                    let b = Some(bias.view());
                    conv2d(case.rule, x.view(), w.view(), b, true, out.view_mut()).unwrap();
                    assert_close(&out.values(), &shifted, dtype, bound, "conv2d with bias and ReLU");
                }
                for to in layouts(&xd) {
                    let mut out = Tensor::with_layout(dtype, to, &vec![1.0; dx.len()]);
                    conv2d_grad_input(case.rule, g.view(), w.view(), out.view_mut()).unwrap();
                    assert_close(&out.values(), &dx, dtype, bound, "gradient of the input");
                }
                for to in layouts(&wd) {
                    let mut out = Tensor::with_layout(dtype, to, &vec![1.0; dw.len()]);
                    conv2d_grad_weight(case.rule, g.view(), x.view(), out.view_mut()).unwrap();
                    assert_close(&out.values(), &dw, dtype, bound, "gradient of the weight");
                }
            }
        }
    }
}

/// 3×3 kernels with many channels: all paddings, ragged tiles and channels, groups, layouts. The first three use Winograd's
/// algorithm with many tiles, the next four with few: several blocks of input channels, rows of tiles and panels of output
/// channels. In the others all threads work on one block of pixels, with several blocks of channels.
#[test]
fn many_channels_are_the_same_convolution() {
    for (x, o, stride, padding, groups) in [
        ([2usize, 17, 21, 19], 18usize, 1, [1usize, 1usize], 1),
        ([1, 32, 30, 27], 34, 1, [0, 2], 2),
        ([9, 16, 11, 10], 20, 1, [2, 1], 1),
        ([1, 70, 7, 7], 66, 1, [1, 1], 1),
        ([1, 530, 8, 7], 20, 1, [1, 1], 1),
        ([3, 36, 14, 13], 150, 1, [1, 0], 2),
        ([2, 18, 26, 27], 130, 1, [2, 1], 1),
        ([1, 160, 9, 8], 96, 2, [1, 0], 2),
        ([3, 61, 5, 6], 71, 1, [1, 1], 1),
    ] {
        let case = Case { x, o, kernel: [3, 3], rule: rule([stride; 2], padding, [1, 1], groups) };
        let (xd, wd, yd) = (case.x, case.w(), case.y());
        for (dtype, bound) in [(DType::F32, 2e-5), (DType::BF16, 2e-2)] {
            let many = if dtype == DType::F32 { 3 } else { 1 };
            for (i, to) in layouts(&yd).into_iter().take(many).enumerate() {
                // Also channels-last, as the second.
                let channels_last = |d: [usize; 4]| {
                    Layout::contiguous(kiln_backend::Shape::new(&[d[0], d[2], d[3], d[1]]).unwrap())
                        .permute(&[0, 3, 1, 2])
                };
                let lie = |d: [usize; 4], i: usize| if i == 1 { channels_last(d) } else { layouts(&d)[i] };
                let x = Tensor::with_layout(dtype, lie(xd, i), &numbers(numel(&xd), 1));
                let w = Tensor::with_layout(dtype, layouts(&wd)[i], &numbers(numel(&wd), 2));
                let g = Tensor::with_layout(dtype, lie(yd, (i + 1) % 3), &numbers(numel(&yd), 3));
                let bias = Tensor::new(dtype, &[o], &numbers(o, 4));
                let (xs, ws, gs, bs) = (x.values(), w.values(), g.values(), bias.values());
                let plane = yd[2] * yd[3];
                let mut y: Vec<f64> = (0..numel(&yd)).map(|i| bs[i / plane % o]).collect();
                let (mut dx, mut dw) = (vec![0.0; numel(&xd)], vec![0.0; numel(&wd)]);
                case.each(|o, i, k| {
                    y[o] += xs[i] * ws[k];
                    dx[i] += gs[o] * ws[k];
                    dw[k] += gs[o] * xs[i];
                });
                y.iter_mut().for_each(|y| *y = y.max(0.0));
                let mut out =
                    Tensor::with_layout(dtype, if i == 1 { channels_last(yd) } else { to }, &vec![1.0; y.len()]);
                conv2d(case.rule, x.view(), w.view(), Some(bias.view()), true, out.view_mut()).unwrap();
                let mut back = Tensor::with_layout(dtype, lie(xd, i), &vec![1.0; dx.len()]);
                conv2d_grad_input(case.rule, g.view(), w.view(), back.view_mut()).unwrap();
                let mut taps = Tensor::with_layout(dtype, layouts(&wd)[i], &vec![1.0; dw.len()]);
                conv2d_grad_weight(case.rule, g.view(), x.view(), taps.view_mut()).unwrap();
                for (what, got, want) in [("y", &out, y), ("dx", &back, dx), ("dw", &taps, dw)] {
                    let largest = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
                    let off = got.values().iter().zip(&want).fold(0.0f64, |a, (g, w)| a.max((g - w).abs()));
                    assert!(off <= bound * largest, "{what} of {:?}, {dtype}: off by {}", case.x, off / largest);
                }
            }
        }
    }
}

/// Large enough for several blocks of pixels and of channels, and for every thread.
#[test]
fn threads_do_not_matter() {
    for (x, o, kernel) in [([2, 40, 30, 31], 33, [3, 5]), ([2, 40, 30, 31], 33, [3, 3]), ([2, 70, 9, 9], 130, [3, 3])] {
        compare_threads(&Case { x, o, kernel, rule: rule([1, 1], [1, 2], [1, 1], 1) });
    }
}

fn compare_threads(case: &Case) {
    let (xd, wd, yd) = (case.x, case.w(), case.y());
    let x = Tensor::new(DType::F32, &xd, &numbers(numel(&xd), 1));
    let w = Tensor::new(DType::F32, &wd, &numbers(numel(&wd), 2));
    let g = Tensor::new(DType::F32, &yd, &numbers(numel(&yd), 3));
    let all = [1, 2, 5].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (mut y, mut dx) = (Tensor::empty(DType::F32, &yd), Tensor::empty(DType::F32, &xd));
        let mut dw = Tensor::empty(DType::F32, &wd);
        pool.install(|| {
            conv2d(case.rule, x.view(), w.view(), None, false, y.view_mut()).unwrap();
            conv2d_grad_input(case.rule, g.view(), w.view(), dx.view_mut()).unwrap();
            conv2d_grad_weight(case.rule, g.view(), x.view(), dw.view_mut()).unwrap();
        });
        [y, dx, dw]
    });
    let (mut y, mut dx, mut dw) = (vec![0.0; numel(&yd)], vec![0.0; numel(&xd)], vec![0.0; numel(&wd)]);
    let (xs, ws, gs) = (x.values(), w.values(), g.values());
    case.each(|o, i, k| {
        y[o] += xs[i] * ws[k];
        dx[i] += gs[o] * ws[k];
        dw[k] += gs[o] * xs[i];
    });
    for (out, want) in all[0].iter().zip([y, dx, dw]) {
        // Sums of hundreds of products, some of which cancel.
        assert_close(&out.values(), &want, DType::F32, 1e5, "many blocks");
    }
    for other in &all[1..] {
        for (a, b) in all[0].iter().zip(other) {
            assert_eq!(a.bytes(), b.bytes());
        }
    }
}
