//! The cases of the table of `turns.rs`: what runs each family of kernels at `n` positions.

use kiln_backend::{DType::*, *};

use crate::{
    losses::{class_loss, class_loss_grad},
    recurrent::Cells,
    support::*,
};

/// Threads of a block.
pub const BLOCK: usize = 256;
/// Results of 8 elements: a team of 4 threads, or of fewer, has each.
pub const TEAMS: usize = BLOCK;

/// A result from dense operands, for kernels that take 16 bytes at a time, and with gaps.
pub fn both_ways(on: &dyn Backend, make: impl Fn(&dyn Backend, MemoryLayout) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    [MemoryLayout::Dense, MemoryLayout::Sliced].into_iter().map(|memory| make(on, memory)).collect()
}

/// Recurrent cells of `n` elements, and of `n` packs of 16 bytes.
pub fn recurrent(
    on: &dyn Backend,
    dtype: DType,
    n: usize,
    case: impl Fn(Cells, &dyn Backend) -> Result<Vec<Tensor>>,
) -> Result<Vec<Tensor>> {
    let cells =
        Cells { dtype, dims: [n, 1], memory: [MemoryLayout::Dense; 3], offset: [0; 3], tail: [0; 3], whole: true };
    let mut made = case(cells, on)?;
    made.extend(case(Cells { dims: [n, 16 / dtype.size()], ..cells }, on)?);
    Ok(made)
}

/// Numbers whose sums are exact: 0 and 1.
pub fn ones(on: &dyn Backend, dtype: DType, dims: &[usize]) -> Tensor {
    let layout = Layout::contiguous(Shape::new(dims).unwrap());
    let values: Vec<f64> = (0..layout.numel()).map(|i| f64::from(u8::from(i % 257 == 3))).collect();
    Tensor { buffer: on.adopt(host(dtype, &values)).unwrap(), layout }
}

pub fn drawn<const N: usize>(on: &dyn Backend, dtype: DType, n: usize, all: [Distribution; N]) -> Result<Vec<Tensor>> {
    all.into_iter()
        .map(|distribution| {
            let mut out = target(on, dtype, &[n], MemoryLayout::Dense);
            on.random(
                RandomArgs { distribution, state: RandomState { seed: 42, offset: 5 }, out: out.view_mut() }
                    .checked()?,
            )?;
            Ok(out)
        })
        .collect()
}

pub fn binary_grad(on: &dyn Backend, dtype: DType, n: usize, side: SideOf) -> Result<Vec<Tensor>> {
    let mut made = Vec::new();
    for op in [BinaryOp::Mul, BinaryOp::Div] {
        made.extend(both_ways(on, |on, memory| {
            let g = tensor(on, dtype, &[n, 1], memory, 1);
            let (a, b) = (tensor(on, dtype, &[n, 1], MemoryLayout::Dense, 2), positive(on, dtype, &[n, 1]));
            let mut out = target(on, dtype, &[n, 1], MemoryLayout::Dense);
            on.binary_grad(
                BinaryGradArgs {
                    op,
                    side,
                    grad: g.view(),
                    a: Operand::Tensor(a.view()),
                    b: Operand::Tensor(b.view()),
                    out: out.view_mut(),
                }
                .checked()?,
            )?;
            Ok(out)
        })?);
    }
    Ok(made)
}

/// Numbers from 1 to 3.
pub fn positive(on: &dyn Backend, dtype: DType, dims: &[usize]) -> Tensor {
    let layout = Layout::contiguous(Shape::new(dims).unwrap());
    let values: Vec<f64> = numbers(layout.numel(), 3).into_iter().map(|v| v.abs() + 1.0).collect();
    Tensor { buffer: on.adopt(host(dtype, &values)).unwrap(), layout }
}

pub fn sorted(on: &dyn Backend, dtype: DType, dims: [usize; 2]) -> Result<Vec<Tensor>> {
    let (mut values, mut order) =
        (target(on, dtype, &dims, MemoryLayout::Dense), target(on, I64, &dims, MemoryLayout::Dense));
    on.sort(
        SortArgs {
            x: tensor(on, dtype, &dims, MemoryLayout::Dense, 1).view(),
            dim: 1,
            descending: true,
            values: values.view_mut(),
            indices: order.view_mut(),
        }
        .checked()?,
    )?;
    Ok(vec![values, order])
}

/// Into lines that several threads share (few lines), and that one thread has (many).
pub fn scattered(on: &dyn Backend, dtype: DType, n: usize, mode: ScatterMode) -> Result<Vec<Tensor>> {
    let mut made = Vec::new();
    for (dims, size) in [([20, n], 9), ([40, 2], n)] {
        let (x, each) = (tensor(on, dtype, &dims, MemoryLayout::Dense, 1), index(on, &dims, size));
        let mut out = tensor(on, dtype, &[size, dims[1]], MemoryLayout::Dense, 2);
        on.scatter(
            ScatterArgs { mode, x: Operand::Tensor(x.view()), dim: 0, index: each.view(), out: out.view_mut() }
                .checked()?,
        )?;
        made.push(out);
    }
    Ok(made)
}

/// Convolutions with `n` results of two terms each: pixels, and elements of the filter.
pub fn convolved(on: &dyn Backend, dtype: DType, n: usize) -> Result<Vec<Tensor>> {
    let rule = Conv2d::default();
    let (x, w) = (
        tensor(on, dtype, &[1, 2, n, 1], MemoryLayout::Dense, 1),
        tensor(on, dtype, &[2, 2, 1, 1], MemoryLayout::Dense, 2),
    );
    let (mut y, mut to_x) =
        (target(on, dtype, &[1, 2, n, 1], MemoryLayout::Dense), target(on, dtype, &[1, 2, n, 1], MemoryLayout::Dense));
    let (bias, relu) = (None, false);
    on.conv2d(Conv2dArgs { rule, x: x.view(), w: w.view(), bias, residual: None, relu, out: y.view_mut() }.checked()?)?;
    on.conv2d_grad_input(Conv2dGradInputArgs { rule, grad: x.view(), w: w.view(), out: to_x.view_mut() }.checked()?)?;
    let (few, grad) = (
        tensor(on, dtype, &[2, n, 1, 1], MemoryLayout::Dense, 3),
        tensor(on, dtype, &[2, 1, 1, 1], MemoryLayout::Dense, 4),
    );
    let mut to_w = target(on, dtype, &[1, n, 1, 1], MemoryLayout::Dense);
    on.conv2d_grad_weight(
        Conv2dGradWeightArgs { rule, grad: grad.view(), x: few.view(), out: to_w.view_mut() }.checked()?,
    )?;
    Ok(vec![y, to_x, to_w])
}

/// [`convolved`] for volumes.
pub fn convolved_volumes(on: &dyn Backend, dtype: DType, n: usize) -> Result<Vec<Tensor>> {
    let (rule, volume, dense) = (Conv3d::default(), [1, 2, n, 1, 1], MemoryLayout::Dense);
    let (x, w) = (tensor(on, dtype, &volume, dense, 1), tensor(on, dtype, &[2, 2, 1, 1, 1], dense, 2));
    let (mut y, mut to_x) = (target(on, dtype, &volume, dense), target(on, dtype, &volume, dense));
    on.conv3d(Conv3dArgs { rule, x: x.view(), w: w.view(), bias: None, out: y.view_mut() }.checked()?)?;
    on.conv3d_grad_input(Conv3dGradInputArgs { rule, grad: x.view(), w: w.view(), out: to_x.view_mut() }.checked()?)?;
    let (few, grad) = (tensor(on, dtype, &[2, n, 1, 1, 1], dense, 3), tensor(on, dtype, &[2, 1, 1, 1, 1], dense, 4));
    let mut to_w = target(on, dtype, &[1, n, 1, 1, 1], dense);
    on.conv3d_grad_weight(
        Conv3dGradWeightArgs { rule, grad: grad.view(), x: few.view(), out: to_w.view_mut() }.checked()?,
    )?;
    Ok(vec![y, to_x, to_w])
}

pub const PAIRS: Pool2d = Pool2d::Window { kernel: [2, 2], stride: [2, 2], padding: [0, 0], dilation: [1, 1] };

pub fn max_pooled(on: &dyn Backend, dtype: DType, n: usize) -> Result<[Tensor; 2]> {
    let dims = [1, 2, n / 2, 2];
    let (mut out, mut at) =
        (target(on, dtype, &dims, MemoryLayout::Dense), target(on, I64, &dims, MemoryLayout::Dense));
    let x = tensor(on, dtype, &[1, 2, n, 4], MemoryLayout::Dense, 1);
    on.max_pool2d(
        MaxPool2dArgs { pool: PAIRS, x: x.view(), out: out.view_mut(), indices: Some(at.view_mut()) }.checked()?,
    )?;
    Ok([out, at])
}

/// Images `[N, C, H, W]`, or with the extents in the order of channels-last memory, `[N, H, W, C]`.
pub fn images(on: &dyn Backend, dtype: DType, dims: [usize; 4], channels_last: bool) -> Tensor {
    let made = tensor(on, dtype, &dims, MemoryLayout::Dense, 1);
    if channels_last { Tensor { layout: made.layout.permute(&[0, 3, 1, 2]), ..made } } else { made }
}

/// Maxima and gradients of `n` packs of each kind of kernel.
pub fn max_packed(on: &dyn Backend, dtype: DType, n: usize) -> Result<Vec<[Tensor; 2]>> {
    let mut made = Vec::new();
    for (kernel, padding) in [(2, 0), (3, 1)] {
        let pool = Pool2d::Window { kernel: [kernel; 2], stride: [2; 2], padding: [padding; 2], dilation: [1; 2] };
        for (bytes, channels_last) in [(16, true), (16, false), (8, false), (4, false)] {
            let pack = bytes / dtype.size();
            if pack < 2 {
                continue;
            }
            let (x, y) =
                if channels_last { ([n, 2, 2, pack], [n, 1, 1, pack]) } else { ([n, 1, 2, pack], [n, 1, 1, pack / 2]) };
            let (x, mut out) = (images(on, dtype, x, channels_last), images(on, dtype, y, channels_last));
            let (mut taps, mut dx) = (
                images(on, U8, y, channels_last),
                images(on, dtype, x.layout.dims().try_into().expect("images"), false),
            );
            dx.layout = x.layout;
            on.max_pool2d(
                MaxPool2dArgs { pool, x: x.view(), out: out.view_mut(), indices: Some(taps.view_mut()) }.checked()?,
            )?;
            on.max_pool2d_grad(
                MaxPool2dGradArgs { pool, grad: out.view(), indices: taps.view(), out: dx.view_mut() }.checked()?,
            )?;
            made.push([out, dx]);
        }
    }
    Ok(made)
}

/// Softmax or its logarithm (`true`) of matrices along a dimension, or their gradients.
pub fn softmaxes(
    on: &dyn Backend,
    dtype: DType,
    cases: [([usize; 2], usize, bool); 2],
    backward: bool,
) -> Result<Vec<Tensor>> {
    let mut made = Vec::new();
    for (dims, dim, log) in cases {
        let (x, g) =
            (tensor(on, dtype, &dims, MemoryLayout::Dense, 1), tensor(on, dtype, &dims, MemoryLayout::Dense, 2));
        let [mut y, mut out] = [0, 1].map(|_| target(on, dtype, &dims, MemoryLayout::Dense));
        on.softmax(SoftmaxArgs { x: x.view(), dim, log, out: y.view_mut() }.checked()?)?;
        if backward {
            on.softmax_grad(SoftmaxGradArgs { grad: g.view(), y: y.view(), dim, log, out: out.view_mut() }.checked()?)?;
        }
        made.push(if backward { out } else { y });
    }
    Ok(made)
}

/// Batch normalization of images, and layer normalization of those of one pixel; three channels are for many teams.
pub fn normalized(
    on: &dyn Backend,
    dtype: DType,
    n: usize,
    cases: &[[usize; 4]],
    backward: bool,
) -> Result<Vec<Tensor>> {
    let wide = if dtype == F64 { F64 } else { F32 };
    let mut made = Vec::new();
    for &dims in cases {
        if dims[1] == 3 && n > 2 * TEAMS {
            continue;
        }
        let layers: &[bool] = if dims[2] == 1 { &[true, false] } else { &[false] };
        for &rows in layers {
            let view = if rows { &dims[..2] } else { &dims[..] };
            let (x, mut out) =
                (tensor(on, dtype, view, MemoryLayout::Dense, 1), target(on, dtype, view, MemoryLayout::Dense));
            let [mut mean, mut inv_std] =
                [0, 1].map(|_| target(on, wide, &[dims[usize::from(!rows)]], MemoryLayout::Dense));
            let affine = Affine::default();
            if rows {
                on.layer_norm(
                    LayerNormArgs {
                        eps: 0.1,
                        x: x.view(),
                        affine,
                        out: out.view_mut(),
                        mean: mean.view_mut(),
                        inv_std: inv_std.view_mut(),
                    }
                    .checked()?,
                )?;
            } else {
                on.batch_norm(
                    BatchNormArgs {
                        then: BatchNormThen::default(),
                        eps: 0.1,
                        x: x.view(),
                        affine,
                        running: None,
                        out: out.view_mut(),
                        mean: mean.view_mut(),
                        inv_std: inv_std.view_mut(),
                    }
                    .checked()?,
                )?;
            }
            if !backward {
                made.extend([out, mean, inv_std]);
                continue;
            }
            let (grad, mut dx) =
                (tensor(on, dtype, view, MemoryLayout::Dense, 2), target(on, dtype, view, MemoryLayout::Dense));
            let grads = NormGrads { input: Some(dx.view_mut()), weight: None, bias: None };
            if rows {
                on.layer_norm_grad(
                    LayerNormGradArgs {
                        grad: grad.view(),
                        x: x.view(),
                        weight: None,
                        mean: mean.view(),
                        inv_std: inv_std.view(),
                        grads,
                    }
                    .checked()?,
                )?;
            } else {
                on.batch_norm_grad(
                    BatchNormGradArgs {
                        then: BatchNormGradThen::default(),
                        training: true,
                        grad: grad.view(),
                        x: x.view(),
                        weight: None,
                        mean: mean.view(),
                        inv_std: inv_std.view(),
                        grads,
                    }
                    .checked()?,
                )?;
            }
            made.push(dx);
        }
    }
    Ok(made)
}

pub fn class_losses(on: &dyn Backend, dtype: DType, n: usize, classes: usize, backward: bool) -> Result<Vec<Tensor>> {
    let mut made = Vec::new();
    for reduction in [Reduction::None, Reduction::Mean] {
        let rule = ClassLoss { input: ClassLossInput::Logits, reduction, ignore_index: -100, label_smoothing: 0.0 };
        let (x, labels) = (tensor(on, dtype, &[n, classes, 1], MemoryLayout::Dense, 1), index(on, &[n, 1], classes));
        let operands = ClassLossOperands { rule, x: x.view(), target: labels.view(), weight: None };
        let results = class_loss(on, operands)?;
        if backward {
            made.push(class_loss_grad(on, operands, &results)?);
        } else {
            let [loss, lse, _] = results;
            made.extend([loss, lse]);
        }
    }
    Ok(made)
}

pub fn squares<'a>(reduction: Reduction, x: &'a Tensor, t: &'a Tensor) -> PointwiseLoss<'a> {
    let kind = PointwiseLossKind::Mse;
    PointwiseLoss { kind, reduction, input: x.view(), target: t.view(), weight: None, pos_weight: None }
}

/// `cummax` or `cummin` of lines of less than, of exactly and of more than what a block takes at a time, with NaN in some.
pub fn running_extremes(
    on: &dyn Backend,
    dtype: DType,
    n: usize,
    run: impl Fn(&dyn Backend, View, usize, ViewMut, ViewMut) -> Result<()>,
) -> Result<Vec<Tensor>> {
    let mut made = Vec::new();
    for length in [255, 256, 257, 600] {
        for (dims, dim) in [([n, length], 1), ([length, n], 0)] {
            let mut x = tensor(on, dtype, &dims, MemoryLayout::Turned, 1);
            if dtype.is_float() && length == 600 {
                let some = x.layout.slice(dim, 300, 500, 48);
                on.fill(Scalar::Float(f64::NAN), ViewMut { buffer: &mut *x.buffer, layout: &some })?;
            }
            let mut values = target(on, dtype, &dims, MemoryLayout::Dense);
            let mut places = target(on, I64, &dims, MemoryLayout::Sliced);
            run(on, x.view(), dim, values.view_mut(), places.view_mut())?;
            made.extend([values, places]);
        }
    }
    Ok(made)
}
