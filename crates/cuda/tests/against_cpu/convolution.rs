//! Convolution and its gradients, with cuDNN, against the CPU.

use kiln_backend::*;
use kiln_cuda::{with_direct_convolutions, with_plan_limit};

use crate::{sums::Sums, support::*};

/// How a tensor of four dimensions lies in memory.
#[derive(Clone, Copy, Debug)]
enum Order {
    As(MemoryLayout),
    /// Channels last.
    Last,
    /// Densely, behind an offset: images of a larger batch.
    Batch,
    /// Every dimension in the opposite order.
    Transposed,
}

use Order::{As, Batch, Last, Transposed};

const FIRST: Order = As(MemoryLayout::Dense);

fn lay(dims: &[usize; 4], order: Order) -> (Layout, usize) {
    let permuted = |order: [usize; 4]| {
        let mut inverse = [0; 4];
        order.iter().enumerate().for_each(|(i, &dim)| inverse[dim] = i);
        let whole = Layout::contiguous(Shape::new(&order.map(|dim| dims[dim])).unwrap());
        (whole.permute(&inverse), whole.numel())
    };
    match order {
        As(memory) => layout(dims, memory),
        Last => permuted([0, 2, 3, 1]),
        Transposed => permuted([3, 2, 1, 0]),
        Batch => {
            let whole = Layout::contiguous(Shape::new(&[dims[0] + 2, dims[1], dims[2], dims[3]]).unwrap());
            (whole.slice(0, 1, dims[0], 1), whole.numel())
        }
    }
}

fn image(on: &dyn Backend, dtype: DType, dims: &[usize; 4], order: Order, salt: u64) -> Tensor {
    let (layout, len) = lay(dims, order);
    Tensor { buffer: on.adopt(host(dtype, &numbers(len, salt))).unwrap(), layout }
}

fn to(on: &dyn Backend, dtype: DType, dims: &[usize; 4], order: Order) -> Tensor {
    let (layout, len) = lay(dims, order);
    Tensor { buffer: on.adopt(host(dtype, &vec![0.0; len])).unwrap(), layout }
}

/// A layer: input, filter, and how it moves.
#[derive(Clone, Copy, Debug)]
struct Layer {
    x: [usize; 4],
    w: [usize; 4],
    rule: Conv2d,
}

const RULE: Conv2d = Conv2d { stride: [1; 2], padding: [0; 2], dilation: [1; 2], groups: 1 };

const fn layer(x: [usize; 4], w: [usize; 4]) -> Layer {
    Layer { x, w, rule: RULE }
}

impl Layer {
    const fn stride(mut self, stride: [usize; 2]) -> Layer {
        self.rule.stride = stride;
        self
    }

    const fn padding(mut self, padding: [usize; 2]) -> Layer {
        self.rule.padding = padding;
        self
    }

    const fn dilation(mut self, dilation: [usize; 2]) -> Layer {
        self.rule.dilation = dilation;
        self
    }

    const fn groups(mut self, groups: usize) -> Layer {
        self.rule.groups = groups;
        self
    }

    fn y(&self) -> [usize; 4] {
        let [h, w] = self.rule.output([self.x[2], self.x[3]], [self.w[2], self.w[3]]).unwrap();
        [self.x[0], self.w[0], h, w]
    }

    /// All directions, forward with and without bias and ReLU, and backward through a ReLU with and without a bias.
    fn run(&self, on: &dyn Backend, dtype: DType, [ox, ow, oy]: [Order; 3]) -> Result<Vec<Tensor>> {
        let (x, w) = (image(on, dtype, &self.x, ox, 1), image(on, dtype, &self.w, ow, 2));
        let grad = image(on, dtype, &self.y(), oy, 3);
        let bias = tensor(on, dtype, &[self.w[0]], MemoryLayout::Dense, 4);
        let apart = tensor(on, dtype, &[self.w[0]], MemoryLayout::Sliced, 5);
        let mut all = Vec::new();
        let residual = image(on, dtype, &self.y(), oy, 6);
        for (bias, relu, residual) in [
            (None, false, None),
            (Some(&bias), false, None),
            (Some(&bias), true, None),
            (Some(&apart), true, None),
            (None, true, None),
            (Some(&bias), true, Some(&residual)),
            (Some(&apart), true, Some(&residual)),
            (None, false, Some(&residual)),
        ] {
            let mut out = to(on, dtype, &self.y(), oy);
            // The second time by the plan that was kept.
            for _ in 0..2 {
                on.conv2d(
                    Conv2dArgs {
                        rule: self.rule,
                        x: x.view(),
                        w: w.view(),
                        bias: bias.map(Tensor::view),
                        residual: residual.map(Tensor::view),
                        relu,
                        out: out.view_mut(),
                    }
                    .checked()?,
                )?;
            }
            all.push(out);
        }
        let mut out = to(on, dtype, &self.x, ox);
        on.conv2d_grad_input(
            Conv2dGradInputArgs { rule: self.rule, grad: grad.view(), w: w.view(), out: out.view_mut() }.checked()?,
        )?;
        all.push(out);
        for bias in [None, Some(MemoryLayout::Dense), Some(MemoryLayout::Sliced)] {
            let (mut out, memory) = (to(on, dtype, &self.x, ox), bias.unwrap_or(MemoryLayout::Dense));
            let mut sums = target(on, dtype, &self.x[1..2], memory);
            // The second time by the way that was chosen.
            for _ in 0..2 {
                let bias = bias.map(|_| sums.view_mut());
                let (rule, out) = (self.rule, out.view_mut());
                on.conv2d_relu_grad_input(
                    Conv2dReluGradInputArgs { rule, grad: grad.view(), w: w.view(), y: x.view(), out, bias }
                        .checked()?,
                )?;
            }
            all.extend([out, sums]);
        }
        let mut out = to(on, dtype, &self.w, ow);
        on.conv2d_grad_weight(
            Conv2dGradWeightArgs { rule: self.rule, grad: grad.view(), x: x.view(), out: out.view_mut() }.checked()?,
        )?;
        all.push(out);
        Ok(all)
    }

    /// Of how many products the results of [`run`](Layer::run) are.
    fn terms(&self, dtype: DType) -> [usize; 16] {
        let [n, _, h, w] = self.y();
        let [o, inner, kh, kw] = self.w;
        let (forward, backward) = (inner * kh * kw, o / self.rule.groups * kh * kw);
        // The terms of a bias's gradient are rounded to half precision, if they are not summed where they are computed.
        let rounded = if dtype.size() == 2 { 1 << 16 } else { 0 };
        let sums = rounded + backward * self.x[0] * self.x[2] * self.x[3];
        let through = [backward, sums];
        let [[a, b], [c, d], [e, f]] = [through; 3];
        [forward, forward, forward, forward, forward, forward, forward, forward, backward, a, b, c, d, e, f, n * h * w]
    }

    /// What is known of the errors of these results.
    fn sums<'a>(&self, terms: &'a [usize; 16]) -> Sums<'a> {
        Sums::of(terms).with_taps(self.w[2] * self.w[3]).with_residual()
    }
}

/// The dtypes that the device has convolutions of.
pub fn dtypes() -> Vec<DType> {
    // cuDNN multiplies bfloat16 on tensor cores, which have it since compute capability 8.0.
    let has_bf16 = device().is_some_and(|device| device.info().compute_capability.0 >= 8);
    FLOATS.into_iter().filter(|&dtype| dtype != DType::BF16 || has_bf16).collect()
}

const LAYERS: [Layer; 16] = [
    layer([2, 3, 8, 9], [4, 3, 3, 3]).padding([1, 1]),
    layer([2, 3, 8, 9], [4, 3, 3, 3]),
    layer([1, 5, 6, 7], [3, 5, 1, 1]),
    layer([2, 5, 6, 7], [9, 5, 1, 1]).stride([2, 3]),
    layer([2, 2, 9, 7], [3, 2, 5, 3]).padding([2, 0]),
    layer([2, 3, 9, 8], [4, 3, 3, 3]).stride([2, 2]).padding([1, 1]),
    layer([2, 3, 9, 8], [4, 3, 2, 3]).stride([3, 1]).padding([0, 2]),
    layer([1, 3, 9, 10], [4, 3, 3, 3]).dilation([2, 3]).padding([1, 3]),
    layer([2, 2, 11, 9], [2, 2, 3, 2]).dilation([3, 1]).stride([2, 3]).padding([3, 1]),
    layer([2, 4, 6, 5], [6, 2, 3, 3]).groups(2).padding([1, 1]),
    layer([2, 6, 5, 6], [6, 1, 3, 3]).groups(6).padding([1, 1]),
    layer([1, 3, 7, 6], [12, 1, 3, 2]).groups(3).stride([2, 1]).dilation([1, 2]),
    layer([3, 1, 8, 8], [5, 1, 3, 3]),
    layer([3, 4, 5, 5], [1, 4, 3, 3]).padding([1, 1]),
    // The filter is as large as the image, and one pixel.
    layer([2, 3, 4, 5], [7, 3, 4, 5]),
    layer([2, 8, 1, 1], [5, 8, 3, 3]).padding([1, 1]),
];

/// More pixels, and longer sums, than are worked on at a time.
const LARGE: Layer = layer([2, 17, 13, 15], [21, 17, 3, 3]).padding([1, 1]);

/// Even numbers of channels on both sides.
const PAIRS: Layer = layer([3, 6, 7, 8], [4, 6, 3, 2]).padding([1, 1]);

fn check(name: &str, layer: &Layer, dtype: DType, orders: [Order; 3]) {
    layer.sums(&layer.terms(dtype)).same(name, |on| layer.run(on, dtype, orders));
}

/// The simulated cuDNN has plans for all of these: Kiln's own kernel would hide graphs that are made wrong.
pub fn cudnn_has_computed_them() {
    let report = kiln_cuda::report();
    assert!(std::env::var_os("KILN_SIM_RUNNER").is_none() || !report.contains("Kiln's own kernel"), "{report}");
}

#[test]
fn conv2d_shapes_and_dtypes() {
    for dtype in dtypes() {
        for layer in LAYERS {
            check(&format!("{layer:?} {dtype}"), &layer, dtype, [FIRST; 3]);
        }
        check(&format!("{LARGE:?} {dtype}"), &LARGE, dtype, [FIRST; 3]);
    }
    cudnn_has_computed_them();
}

#[test]
fn conv2d_layouts() {
    let orders = [
        [Last, Last, Last],
        [Last, FIRST, Last],
        [FIRST, Last, FIRST],
        [FIRST, FIRST, Last],
        [Batch, FIRST, Batch],
        [As(MemoryLayout::Sliced), As(MemoryLayout::Turned), FIRST],
        [As(MemoryLayout::Turned), As(MemoryLayout::Sliced), As(MemoryLayout::Sliced)],
        [Transposed, Transposed, Transposed],
        [Last, Transposed, As(MemoryLayout::Turned)],
    ];
    for dtype in dtypes() {
        // One of each kind: padded, strided and dilated, in groups, of one channel, 1×1.
        for layer in [LAYERS[0], LAYERS[8], LAYERS[9], LAYERS[12], LAYERS[2]] {
            for order in orders {
                check(&format!("{layer:?} {dtype} {order:?}"), &layer, dtype, order);
            }
        }
    }
    cudnn_has_computed_them();
}

/// The kernel for what cuDNN has no plan for, in any layout, also of bfloat16 on devices without tensor cores for it.
#[test]
fn conv2d_by_the_kernel() {
    let by_kernel = |layer: Layer, dtype: DType, order: [Order; 3]| {
        let name = format!("{layer:?} {dtype} {order:?} by the kernel");
        with_direct_convolutions(|| check(&name, &layer, dtype, order));
    };
    LAYERS.iter().for_each(|layer| by_kernel(*layer, DType::F32, [FIRST; 3]));
    // Strided and dilated; in groups.
    for layer in [LAYERS[8], LAYERS[11]] {
        for order in [[Last; 3], [As(MemoryLayout::Sliced), As(MemoryLayout::Turned), Last], [Batch, Transposed, Batch]]
        {
            by_kernel(layer, DType::F32, order);
        }
        FLOATS.iter().for_each(|dtype| by_kernel(layer, *dtype, [Last, FIRST, FIRST]));
    }
    for extra in 0..3 {
        let layer = layer([1, 2, 7 + extra, 10], [2, 2, 3, 3]).stride([3, 3]).padding([1, 1]);
        by_kernel(layer, DType::F32, [FIRST; 3]);
    }
}

#[test]
fn conv2d_of_nothing() {
    let empty = [
        // No images, no channels, no outputs.
        layer([0, 3, 8, 9], [4, 3, 3, 3]).padding([1, 1]),
        layer([2, 0, 8, 9], [4, 0, 3, 3]).padding([1, 1]),
        layer([2, 3, 8, 9], [0, 3, 3, 3]).padding([1, 1]),
    ];
    for layer in empty {
        for order in [FIRST, Last, As(MemoryLayout::Sliced)] {
            same(&format!("{layer:?} {order:?}"), |on| layer.run(on, DType::F32, [order; 3]));
        }
    }
}

/// A gradient with respect to the input exists for every size that the layer maps to the output's.
#[test]
fn conv_transpose2d_of_every_size() {
    for extra in 0..3 {
        let layer = layer([2, 3, 7 + extra, 10], [4, 3, 3, 3]).stride([3, 3]).padding([1, 1]);
        check(&format!("{layer:?}"), &layer, DType::F32, [FIRST; 3]);
    }
}

#[test]
fn conv2d_refuses_what_does_not_fit() {
    let Some(device) = device() else { return };
    let fail = |x: [usize; 4], w: [usize; 4], y: [usize; 4], dtype: DType, rule: Conv2d| {
        let (x, w, mut y) =
            (to(device, dtype, &x, FIRST), to(device, DType::F32, &w, FIRST), to(device, DType::F32, &y, FIRST));
        Conv2dArgs { rule, x: x.view(), w: w.view(), bias: None, residual: None, relu: false, out: y.view_mut() }
            .checked()
            .and_then(|args| device.conv2d(args))
            .unwrap_err()
            .to_string()
    };
    let (x, w, y) = ([2, 3, 8, 9], [4, 3, 3, 3], [2, 4, 6, 7]);
    for text in [
        fail(x, [4, 2, 3, 3], y, DType::F32, RULE),
        fail(x, w, [2, 4, 6, 6], DType::F32, RULE),
        fail(x, [4, 3, 9, 3], y, DType::F32, RULE),
        fail(x, w, y, DType::F32, Conv2d { groups: 2, ..RULE }),
        fail(x, w, y, DType::F32, Conv2d { stride: [0, 1], ..RULE }),
        fail(x, w, y, DType::F64, RULE),
        fail(x, w, y, DType::I64, RULE),
    ] {
        assert!(text.contains("conv2d"), "{text}");
    }
}

/// The settings are of the whole process: nothing else is compared meanwhile.
#[test]
fn conv2d_settings() {
    let Some(device) = device() else { return };
    let _alone = RECORD.write();
    // The last two have what fusions with sums take: one group, pixels of whole words, strides or dilations.
    let every = [LAYERS[0], LAYERS[4], LAYERS[8], LAYERS[10], PAIRS, layer([2, 4, 9, 8], [6, 4, 3, 3]).stride([2, 2])];
    let check = |name: &str, dtypes: &[DType], tf32: bool| {
        for &dtype in dtypes {
            for layer in every {
                for order in [FIRST, Last] {
                    let name = format!("{name}: {layer:?} {dtype} {order:?}");
                    layer
                        .sums(&layer.terms(dtype))
                        .with_tf32(tf32)
                        .compare(&name, |on| layer.run(on, dtype, [order; 3]));
                }
            }
        }
    };
    use_deterministic_algorithms(true);
    check("deterministic", &dtypes(), false);
    let gradients = || -> Vec<Vec<f64>> {
        let all = LARGE.run(device, DType::F32, [FIRST; 3]).unwrap();
        all.iter().map(|tensor| read(device, tensor)).collect()
    };
    let first = gradients();
    for _ in 0..3 {
        assert_eq!(gradients(), first, "the bits differ from one run to the next");
    }
    use_deterministic_algorithms(false);
    set_convolution_benchmark(true);
    check("benchmark", &dtypes(), false);
    set_float32_matmul_precision(Float32Precision::High);
    check("benchmark with TF32", &[DType::F32], true);
    set_convolution_benchmark(false);
    check("TF32", &[DType::F32], true);
    set_float32_matmul_precision(Float32Precision::Highest);
    check("exact again", &dtypes(), false);
}

/// Plans are kept for so many shapes; with more, they are made anew.
#[test]
fn conv2d_of_more_shapes_than_plans_are_kept() {
    let (most, widest) = (3, 4);
    with_plan_limit(most * widest / 2, || {
        Sums::of(&[1]).with_bias().same("many shapes", |on| {
            let x = tensor(on, DType::F32, &[most * widest], MemoryLayout::Dense, 1);
            let (w, bias) = (
                tensor(on, DType::F32, &[1, 1, 1, 1], MemoryLayout::Dense, 2),
                tensor(on, DType::F32, &[1], MemoryLayout::Dense, 3),
            );
            let mut out = target(on, DType::F32, &[most * widest], MemoryLayout::Dense);
            // The second time some of them are there still.
            for (n, width) in (1..=most).flat_map(|n| (1..=widest).map(move |width| (n, width))).cycle().take(24) {
                let images = Layout::contiguous(Shape::new(&[n, 1, 1, width]).unwrap());
                let x = View { buffer: &*x.buffer, layout: &images };
                let to = ViewMut { buffer: &mut *out.buffer, layout: &images };
                on.conv2d(
                    Conv2dArgs {
                        rule: RULE,
                        x,
                        w: w.view(),
                        bias: Some(bias.view()),
                        residual: None,
                        relu: true,
                        out: to,
                    }
                    .checked()?,
                )?;
            }
            Ok(vec![out])
        });
    });
}
