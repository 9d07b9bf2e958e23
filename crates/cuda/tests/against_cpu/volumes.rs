//! Convolution of volumes and its gradients, with cuDNN and by the kernel, against the CPU.

use kiln_backend::*;
use kiln_cuda::with_direct_convolutions;

use crate::{
    convolution::{cudnn_has_computed_them, dtypes},
    sums::Sums,
    support::*,
};

/// How the operands lie in memory.
#[derive(Clone, Copy, Debug)]
enum Order {
    As(MemoryLayout),
    /// Channels last.
    Last,
}

use Order::{As, Last};

const FIRST: Order = As(MemoryLayout::Dense);

fn lay(dims: &[usize; 5], order: Order) -> (Layout, usize) {
    match order {
        As(memory) => layout(dims, memory),
        Last => {
            let [n, c, d, h, w] = *dims;
            let whole = Layout::contiguous(Shape::new(&[n, d, h, w, c]).unwrap());
            (whole.permute(&[0, 4, 1, 2, 3]), whole.numel())
        }
    }
}

fn volumes(on: &dyn Backend, dtype: DType, dims: &[usize; 5], order: Order, salt: u64) -> Tensor {
    let (layout, len) = lay(dims, order);
    Tensor { buffer: on.adopt(host(dtype, &numbers(len, salt))).unwrap(), layout }
}

fn to(on: &dyn Backend, dtype: DType, dims: &[usize; 5], order: Order) -> Tensor {
    let (layout, len) = lay(dims, order);
    Tensor { buffer: on.adopt(host(dtype, &vec![0.0; len])).unwrap(), layout }
}

/// A layer: input, filter, and how it moves.
#[derive(Clone, Copy, Debug)]
struct Layer {
    x: [usize; 5],
    w: [usize; 5],
    rule: Conv3d,
}

const fn layer(
    x: [usize; 5],
    w: [usize; 5],
    stride: [usize; 3],
    padding: [usize; 3],
    dilation: [usize; 3],
    groups: usize,
) -> Layer {
    Layer { x, w, rule: Conv3d { stride, padding, dilation, groups } }
}

impl Layer {
    fn y(&self) -> [usize; 5] {
        let ([n, _, size @ ..], [o, _, kernel @ ..]) = (self.x, self.w);
        let [d, h, w] = self.rule.output(size, kernel).unwrap();
        [n, o, d, h, w]
    }

    /// All directions, forward without a bias and with one, dense and not.
    fn run(&self, on: &dyn Backend, dtype: DType, [ox, ow, oy]: [Order; 3]) -> Result<Vec<Tensor>> {
        let (rule, x, w) = (self.rule, volumes(on, dtype, &self.x, ox, 1), volumes(on, dtype, &self.w, ow, 2));
        let grad = volumes(on, dtype, &self.y(), oy, 3);
        let mut all = Vec::new();
        for bias in [None, Some(MemoryLayout::Dense), Some(MemoryLayout::Sliced)] {
            let bias = bias.map(|memory| tensor(on, dtype, &[self.w[0]], memory, 4));
            let mut out = to(on, dtype, &self.y(), oy);
            // The second time by the plan that was kept.
            for _ in 0..2 {
                let (x, w, bias, out) = (x.view(), w.view(), bias.as_ref().map(Tensor::view), out.view_mut());
                on.conv3d(Conv3dArgs { rule, x, w, bias, out }.checked()?)?;
            }
            all.push(out);
        }
        let mut out = to(on, dtype, &self.x, ox);
        let args = Conv3dGradInputArgs { rule, grad: grad.view(), w: w.view(), out: out.view_mut() };
        on.conv3d_grad_input(args.checked()?)?;
        all.push(out);
        let mut out = to(on, dtype, &self.w, ow);
        let args = Conv3dGradWeightArgs { rule, grad: grad.view(), x: x.view(), out: out.view_mut() };
        on.conv3d_grad_weight(args.checked()?)?;
        all.push(out);
        Ok(all)
    }

    /// Of how many products the results of [`run`](Layer::run) are.
    fn terms(&self) -> [usize; 5] {
        let [n, _, size @ ..] = self.y();
        let [o, inner, kernel @ ..] = self.w;
        let taps = kernel.iter().product::<usize>();
        let pixels = size.iter().product::<usize>();
        [inner * taps, inner * taps, inner * taps, o / self.rule.groups * taps, n * pixels]
    }
}

/// Extents, kernels, strides, padding and dilations that differ along all axes, and what is usual.
const LAYERS: [Layer; 8] = [
    layer([2, 3, 5, 7, 6], [4, 3, 3, 2, 4], [2, 1, 3], [1, 0, 2], [1, 3, 2], 1),
    layer([1, 2, 9, 6, 8], [3, 2, 2, 3, 1], [1, 3, 2], [2, 1, 0], [3, 2, 1], 1),
    layer([2, 4, 4, 5, 6], [6, 2, 1, 2, 3], [3, 1, 2], [0, 1, 2], [1, 2, 1], 2),
    layer([2, 6, 5, 4, 3], [6, 1, 3, 1, 2], [1, 2, 1], [1, 0, 0], [2, 1, 1], 6),
    layer([2, 3, 4, 6, 5], [4, 3, 3, 3, 3], [1; 3], [1; 3], [1; 3], 1),
    layer([1, 3, 5, 4, 3], [2, 3, 5, 4, 3], [1; 3], [0; 3], [1; 3], 1),
    layer([3, 5, 2, 3, 4], [7, 5, 1, 1, 1], [1; 3], [0; 3], [1; 3], 1),
    // More pixels, and longer sums, than are worked on at a time.
    layer([2, 13, 5, 11, 13], [17, 13, 3, 3, 2], [1; 3], [1, 1, 0], [1; 3], 1),
];

fn check(name: &str, layer: &Layer, dtype: DType, orders: [Order; 3]) {
    let taps = layer.w[2..].iter().product();
    Sums::of(&layer.terms()).with_taps(taps).with_bias().same(name, |on| layer.run(on, dtype, orders));
}

#[test]
fn conv3d_shapes_and_dtypes() {
    for (layer, dtype) in LAYERS.iter().flat_map(|layer| dtypes().into_iter().map(move |dtype| (layer, dtype))) {
        check(&format!("{layer:?} {dtype}"), layer, dtype, [FIRST; 3]);
    }
    cudnn_has_computed_them();
}

#[test]
fn conv3d_layouts() {
    let orders = [
        [Last; 3],
        [Last, FIRST, Last],
        [FIRST, Last, FIRST],
        [FIRST, FIRST, Last],
        [As(MemoryLayout::Sliced), As(MemoryLayout::Turned), FIRST],
        [Last, As(MemoryLayout::Sliced), As(MemoryLayout::Turned)],
    ];
    for dtype in dtypes() {
        for (layer, order) in [LAYERS[0], LAYERS[2]].iter().flat_map(|layer| orders.map(|order| (layer, order))) {
            check(&format!("{layer:?} {dtype} {order:?}"), layer, dtype, order);
        }
    }
    cudnn_has_computed_them();
}

/// The kernel for what cuDNN has no plan for, in any layout, also of bfloat16 on devices without tensor cores for it.
#[test]
fn conv3d_by_the_kernel() {
    let by_kernel = |layer: &Layer, dtype: DType, order: [Order; 3]| {
        let name = format!("{layer:?} {dtype} {order:?} by the kernel");
        with_direct_convolutions(|| check(&name, layer, dtype, order));
    };
    LAYERS[..7].iter().for_each(|layer| by_kernel(layer, DType::F32, [FIRST; 3]));
    for layer in [LAYERS[0], LAYERS[2]] {
        by_kernel(&layer, DType::F32, [Last, As(MemoryLayout::Sliced), As(MemoryLayout::Turned)]);
        FLOATS.iter().for_each(|dtype| by_kernel(&layer, *dtype, [Last, FIRST, FIRST]));
    }
}

/// A gradient with respect to the input exists for every size that the layer maps to the output's.
#[test]
fn conv_transpose3d_of_every_size() {
    for extra in 0..3 {
        let layer = layer([1, 2, 7 + extra, 5, 4], [3, 2, 3, 2, 2], [3, 1, 2], [1, 0, 1], [1; 3], 1);
        check(&format!("{layer:?}"), &layer, DType::F32, [FIRST; 3]);
        with_direct_convolutions(|| check(&format!("{layer:?} by the kernel"), &layer, DType::F32, [FIRST; 3]));
    }
}

#[test]
fn conv3d_of_nothing() {
    for (x, w) in
        [([0, 3, 4, 5, 6], [4, 3, 3, 3, 3]), ([2, 0, 4, 5, 6], [4, 0, 3, 3, 3]), ([2, 3, 4, 5, 6], [0, 3, 3, 3, 3])]
    {
        let layer = layer(x, w, [1; 3], [1; 3], [1; 3], 1);
        same(&format!("{layer:?}"), |on| layer.run(on, DType::F32, [FIRST; 3]));
    }
}

/// The settings are of the whole process: nothing else is compared meanwhile.
#[test]
fn conv3d_settings() {
    let Some(device) = device() else { return };
    let _alone = RECORD.write();
    let check = |name: &str, dtypes: &[DType], tf32: bool| {
        for (layer, dtype) in [LAYERS[0], LAYERS[4]].iter().flat_map(|layer| dtypes.iter().map(move |d| (layer, *d))) {
            let taps = layer.w[2..].iter().product();
            let terms = layer.terms();
            let sums = Sums::of(&terms).with_taps(taps).with_bias().with_tf32(tf32);
            for order in [FIRST, Last] {
                let name = format!("{name}: {layer:?} {dtype} {order:?}");
                sums.compare(&name, |on| layer.run(on, dtype, [order; 3]));
            }
        }
    };
    use_deterministic_algorithms(true);
    check("deterministic", &dtypes(), false);
    let results = || -> Vec<Vec<f64>> {
        let all = LAYERS[7].run(device, DType::F32, [FIRST; 3]).unwrap();
        all.iter().map(|tensor| read(device, tensor)).collect()
    };
    let first = results();
    for _ in 0..3 {
        assert_eq!(results(), first, "the bits differ from one run to the next");
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
