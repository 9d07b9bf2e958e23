//! Every kernel that loops over its grid, beyond the first iteration. A launch has at most 8192 blocks, which cover
//! millions of elements; [`with_block_limit`] limits it to one block, so that a few hundred elements suffice.
//!
//! The table has a row for each family of kernels: the positions that one block covers per iteration, and a case with
//! `n` positions.

use kiln_backend::*;
use kiln_cuda::{
    launch,
    params::{SORT_TILE, with_block_limit},
    with_direct_convolutions,
};

use crate::{recurrent::Cells, support::*};

mod cases;
use cases::*;

type Case = fn(&dyn Backend, DType, usize) -> Result<Vec<Tensor>>;

/// A family of kernels with the same loop.
struct Row {
    family: &'static str,
    /// Positions (elements, lines, results, groups) that a block covers in one turn, at most.
    turn: usize,
    dtypes: &'static [DType],
    case: Case,
}

impl Row {
    /// The case with a position in the second turn, and with nearly three turns.
    fn run(&self) {
        for &dtype in self.dtypes {
            for n in [self.turn + 1, 3 * self.turn - 1] {
                let name = format!("{} of {n} {dtype}", self.family);
                with_block_limit(1, || same(&name, |on| (self.case)(on, dtype, n)));
            }
        }
    }
}

macro_rules! rows {
    ($($family:ident, $turn:expr, $dtypes:expr, $case:expr;)*) => {
        const ROWS: &[Row] = &[$(
            Row { family: stringify!($family), turn: $turn, dtypes: $dtypes, case: $case },
        )*];

        $(
            #[test]
            fn $family() {
                ROWS.iter().find(|row| row.family == stringify!($family)).expect("made from it").run();
            }
        )*
    };
}

use DType::{BF16, Bool, F16, F32, F64, I32, I64, U8};

/// One dtype of each width.
const WIDTHS: &[DType] = &[U8, F16, F32, F64];
const ALL: &[DType] = &DType::ALL;
const WHOLE: &[DType] = &[I64, I32, U8];
const HALF: &[DType] = &[F16, BF16];
const PACKED: [DType; 3] = [F32, F16, BF16];

/// Elements that a thread of an element-wise kernel takes at once, at most.
const PACK: usize = 16;
rows! {
    fill, PACK * BLOCK, WIDTHS, |on, dtype, n| both_ways(on, |on, memory| {
        let mut out = target(on, dtype, &[n, 1], memory);
        on.fill(Scalar::Int(1), out.view_mut())?;
        Ok(out)
    });
    arange, BLOCK, ALL, |on, dtype, n| {
        let mut made = Vec::new();
        for number in [Scalar::Float, |v| Scalar::Int(v as i64)] {
            let mut out = target(on, dtype, &[n], MemoryLayout::Dense);
            on.arange(Arange { start: number(3.0), step: number(1.0) }, out.view_mut())?;
            made.push(out);
        }
        Ok(made)
    };
    random, 4 * BLOCK, &FLOATS, |on, dtype, n| {
        let normal = Distribution::Normal { mean: 1.0, std: 2.0 };
        drawn(on, dtype, n, [Distribution::Uniform { low: -1.0, high: 3.0 }, normal])
    };
    draw, 4 * BLOCK, ALL, |on, dtype, n| {
        drawn(on, dtype, n, [Distribution::Bernoulli { p: 0.3 }, Distribution::Integers { low: 0, high: 2 }])
    };
    copy, PACK * BLOCK, WIDTHS, |on, dtype, n| both_ways(on, |on, memory| {
        let (x, mut out) = (tensor(on, dtype, &[n, 1], memory, 1), target(on, dtype, &[n, 1], MemoryLayout::Dense));
        on.copy(CopyArgs { x: x.view(), out: out.view_mut() }.checked()?)?;
        Ok(out)
    });
    cast, 4 * BLOCK, ALL, |on, dtype, n| both_ways(on, |on, memory| {
        let to = if dtype == F32 { BF16 } else { F32 };
        let (x, mut out) = (tensor(on, dtype, &[n, 1], memory, 1), target(on, to, &[n, 1], MemoryLayout::Dense));
        on.copy(CopyArgs { x: x.view(), out: out.view_mut() }.checked()?)?;
        Ok(out)
    });
    unary, 4 * BLOCK, &FLOATS, |on, dtype, n| {
        let mut made = Vec::new();
        for op in [UnaryOp::Square, UnaryOp::Tanh] {
            made.extend(both_ways(on, |on, memory| {
                let (x, mut out) = (tensor(on, dtype, &[n, 1], memory, 1), target(on, dtype, &[n, 1], MemoryLayout::Dense));
                on.unary(UnaryArgs { op, x: x.view(), out: out.view_mut() }.checked()?)?;
                Ok(out)
            })?);
        }
        Ok(made)
    };
    unary_grad, 4 * BLOCK, &FLOATS, |on, dtype, n| {
        let mut made = Vec::new();
        for op in [UnaryOp::Square, UnaryOp::Sin, UnaryOp::Neg] {
            made.extend(both_ways(on, |on, memory| {
                let (x, g) = (tensor(on, dtype, &[n, 1], memory, 1), tensor(on, dtype, &[n, 1], MemoryLayout::Dense, 2));
                let mut out = target(on, dtype, &[n, 1], MemoryLayout::Dense);
                on.unary_grad(UnaryGradArgs { op, grad: g.view(), saved: Some(x.view()), out: out.view_mut() }.checked()?)?;
                Ok(out)
            })?);
        }
        Ok(made)
    };
    binary, PACK * BLOCK, ALL, |on, dtype, n| {
        let mut made = Vec::new();
        // A few and one at a time, and with the truth values of comparisons.
        let ops: &[BinaryOp] = if dtype.is_float() { &[BinaryOp::Add, BinaryOp::Atan2, BinaryOp::Lt] } else { &[BinaryOp::Eq] };
        for &op in ops {
            made.extend(both_ways(on, |on, memory| {
                let (a, b) = (tensor(on, dtype, &[n, 1], memory, 1), tensor(on, dtype, &[n, 1], MemoryLayout::Dense, 2));
                let mut out = target(on, if matches!(op, BinaryOp::Eq | BinaryOp::Lt) { Bool } else { dtype }, &[n, 1], MemoryLayout::Dense);
                on.binary(BinaryArgs { op, a: Operand::Tensor(a.view()), b: Operand::Tensor(b.view()), out: out.view_mut() }.checked()?)?;
                Ok(out)
            })?);
        }
        Ok(made)
    };
    binary_lhs, 4 * BLOCK, &FLOATS, |on, dtype, n| binary_grad(on, dtype, n, SideOf::Lhs);
    binary_rhs, 4 * BLOCK, &FLOATS, |on, dtype, n| binary_grad(on, dtype, n, SideOf::Rhs);
    where_cond, PACK * BLOCK, WIDTHS, |on, dtype, n| both_ways(on, |on, memory| {
        let condition = tensor(on, Bool, &[n, 1], MemoryLayout::Dense, 1);
        let (a, mut out) = (tensor(on, dtype, &[n, 1], memory, 2), target(on, dtype, &[n, 1], MemoryLayout::Dense));
        on.where_cond(WhereCondArgs { condition: condition.view(), a: Operand::Tensor(a.view()), b: Operand::Scalar(Scalar::Int(1)), out: out.view_mut() }.checked()?)?;
        Ok(out)
    });
    dropout, 4 * BLOCK, &FLOATS, |on, dtype, n| {
        let (x, mut out) = (tensor(on, dtype, &[n], MemoryLayout::Dense, 1), target(on, dtype, &[n], MemoryLayout::Dense));
        on.dropout(DropoutArgs { p: 0.4, state: RandomState { seed: 42, offset: 5 }, x: x.view(), out: out.view_mut() }.checked()?)?;
        Ok(vec![out])
    };
    tril_triu, BLOCK, WIDTHS, |on, dtype, n| {
        let dims = [n.div_ceil(20), 4, 5];
        let (x, mut out) = (tensor(on, dtype, &dims, MemoryLayout::Dense, 1), target(on, dtype, &dims, MemoryLayout::Sliced));
        on.tril_triu(TrilTriuArgs { upper: true, diagonal: 0, x: x.view(), out: out.view_mut() }.checked()?)?;
        Ok(vec![out])
    };
    reduce, TEAMS, ALL, |on, dtype, n| {
        let mut made = Vec::new();
        for op in [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Any] {
            // Teams along memory and across it; and in two stages, whose first has the teams of one result.
            for (dims, to) in [([n, 8], [n, 1]), ([8, n], [1, n]), ([1, 300 * n], [1, 1])] {
                if dims[1] > 8 * n && (n > 2 * TEAMS || ![F32, I64].contains(&dtype)) {
                    continue;
                }
                let kind = match op {
                    ReduceOp::Any => Bool,
                    ReduceOp::Sum if !dtype.is_float() => I64,
                    _ => dtype,
                };
                let (x, mut out) = (ones(on, dtype, &dims), target(on, kind, &to, MemoryLayout::Dense));
                on.reduce(ReduceArgs { op, x: x.view(), out: out.view_mut() }.checked()?)?;
                made.push(out);
            }
        }
        Ok(made)
    };
    arg_reduce, TEAMS, ALL, |on, dtype, n| {
        let mut made = Vec::new();
        for (dims, to, dim) in [([n, 8], [n, 1], 1), ([8, n], [1, n], 0), ([1, 300 * n], [1, 1], 1)] {
            if dims[1] > 8 * n && (n > 2 * TEAMS || ![F32, I64].contains(&dtype)) {
                continue;
            }
            let x = tensor(on, dtype, &dims, MemoryLayout::Dense, 1);
            let (mut best, mut at) = (target(on, dtype, &to, MemoryLayout::Dense), target(on, I64, &to, MemoryLayout::Dense));
            on.arg_reduce(ArgReduceArgs { op: ArgReduceOp::Max, x: x.view(), dim, values: Some(best.view_mut()), indices: at.view_mut() }.checked()?)?;
            made.extend([best, at]);
        }
        Ok(made)
    };
    // A block has a line, and 256 elements of it at a time.
    cumsum, 1, ALL, |on, dtype, n| {
        let mut made = Vec::new();
        for length in [255, 256, 257, 600] {
            let kind = if dtype.is_float() { dtype } else { I64 };
            for (dims, dim) in [([n, length], 1), ([length, n], 0)] {
                let (x, mut out) = (tensor(on, dtype, &dims, MemoryLayout::Dense, 1), target(on, kind, &dims, MemoryLayout::Dense));
                on.cumsum(CumsumArgs { x: x.view(), dim, out: out.view_mut() }.checked()?)?;
                made.push(out);
            }
        }
        Ok(made)
    };
    cummax, 1, ALL, |on, dtype, n| running_extremes(on, dtype, n, |on, x, dim, v, i| on.cum_extreme(CumExtremeArgs { op: CumExtreme::Cummax, x, dim, values: v, indices: i }.checked()?));
    cummin, 1, ALL, |on, dtype, n| running_extremes(on, dtype, n, |on, x, dim, v, i| on.cum_extreme(CumExtremeArgs { op: CumExtreme::Cummin, x, dim, values: v, indices: i }.checked()?));
    softmax, TEAMS, &FLOATS, |on, dtype, n| softmaxes(on, dtype, [([n, 7], 1, false), ([8, n], 0, true)], false);
    softmax_grad, TEAMS, &FLOATS, |on, dtype, n| softmaxes(on, dtype, [([n, 7], 1, true), ([8, n], 0, false)], true);
    softmax_packed, TEAMS, &PACKED, |on, dtype, n| softmaxes(on, dtype, [([n, 16], 1, false), ([n, 8], 1, true)], false);
    softmax_packed_grad, TEAMS, &PACKED, |on, dtype, n| softmaxes(on, dtype, [([n, 16], 1, true), ([n, 8], 1, false)], true);
    // A line has two tiles, the second of which is short.
    sort_tile, 1, ALL, |on, dtype, n| sorted(on, dtype, [n, SORT_TILE as usize + 100]);
    sort_merge, 1, &[F32], |on, dtype, n| sorted(on, dtype, [n, SORT_TILE as usize + 1]);
    sort_write, BLOCK, WIDTHS, |on, dtype, n| sorted(on, dtype, [n.div_ceil(50), 50]);
    searchsorted, BLOCK, ALL, |on, dtype, n| {
        let dims = [1, 70];
        let (mut keys, mut order) = (target(on, dtype, &dims, MemoryLayout::Dense), target(on, I64, &dims, MemoryLayout::Dense));
        on.sort(SortArgs { x: tensor(on, dtype, &dims, MemoryLayout::Dense, 1).view(), dim: 1, descending: false, values: keys.view_mut(), indices: order.view_mut() }.checked()?)?;
        let (values, mut out) = (tensor(on, dtype, &[1, n], MemoryLayout::Dense, 2), target(on, I64, &[1, n], MemoryLayout::Dense));
        on.searchsorted(SearchsortedArgs { sorted: keys.view(), values: values.view(), right: false, out: out.view_mut() }.checked()?)?;
        Ok(vec![out])
    };
    gather, BLOCK, WIDTHS, |on, dtype, n| {
        let x = tensor(on, dtype, &[9, n], MemoryLayout::Dense, 1);
        let (each, mut out) = (index(on, &[2, n], 9), target(on, dtype, &[2, n], MemoryLayout::Dense));
        on.gather(GatherArgs { x: x.view(), dim: 0, index: each.view(), out: out.view_mut() }.checked()?)?;
        let (rows, mut taken) = (index(on, &[n], 9), target(on, dtype, &[n, 3], MemoryLayout::Dense));
        on.index_select(IndexSelectArgs { x: tensor(on, dtype, &[9, 3], MemoryLayout::Dense, 2).view(), dim: 0, index: rows.view(), out: taken.view_mut() }.checked()?)?;
        Ok(vec![out, taken])
    };
    scatter, BLOCK, ALL, |on, dtype, n| scattered(on, dtype, n, if dtype == Bool { ScatterMode::Set } else { ScatterMode::Add });
    scatter_half, BLOCK, HALF, |on, dtype, n| scattered(on, dtype, n, ScatterMode::Add);
    // Tiles of 16 rows, and matrices of a batch.
    matmul, 16, WHOLE, |on, dtype, n| {
        let mut made = Vec::new();
        for [batch, m, k, columns] in [[1, n, 17, 33], [n, 3, 5, 2]] {
            let a = tensor(on, dtype, &[batch, m, k], MemoryLayout::Dense, 1);
            let b = tensor(on, dtype, &[batch, k, columns], MemoryLayout::Dense, 2);
            let mut out = target(on, dtype, &[batch, m, columns], MemoryLayout::Dense);
            on.matmul(MatmulArgs { a: a.view(), b: b.view(), out: out.view_mut() }.checked()?)?;
            made.push(out);
        }
        Ok(made)
    };
    // What cuBLASLt adds itself only where it lies densely.
    bias, BLOCK, &FLOATS, |on, dtype, n| {
        let (x, w) = (tensor(on, dtype, &[n, 2], MemoryLayout::Dense, 1), tensor(on, dtype, &[3, 2], MemoryLayout::Dense, 2));
        let (bias, mut made) = (tensor(on, dtype, &[3], MemoryLayout::Sliced, 3), Vec::new());
        for relu in [false, true] {
            let mut out = target(on, dtype, &[n, 3], MemoryLayout::Dense);
            on.linear(LinearArgs { x: x.view(), w: w.view(), bias: Some(bias.view()), activation: Activation::relu(relu), out: out.view_mut() }.checked()?)?;
            made.push(out);
        }
        Ok(made)
    };
    // A thread for each result, and a block for each of a few.
    conv2d, BLOCK, &FLOATS, |on, dtype, n| with_direct_convolutions(|| convolved(on, dtype, n));
    conv3d, BLOCK, &FLOATS, |on, dtype, n| with_direct_convolutions(|| convolved_volumes(on, dtype, n));
    max_pool, BLOCK, &FLOATS, |on, dtype, n| Ok(max_pooled(on, dtype, n)?.into());
    max_pool_grad, BLOCK, &FLOATS, |on, dtype, n| {
        let [out, at] = max_pooled(on, dtype, n)?;
        let mut dx = target(on, dtype, &[1, 2, n, 4], MemoryLayout::Dense);
        on.max_pool2d_grad(MaxPool2dGradArgs { pool: PAIRS, grad: out.view(), indices: at.view(), out: dx.view_mut() }.checked()?)?;
        Ok(vec![dx])
    };
    max_pool_packed, BLOCK, &PACKED, |on, dtype, n| Ok(max_packed(on, dtype, n)?.into_iter().map(|[out, _]| out).collect());
    max_pool_packed_grad, BLOCK, &PACKED, |on, dtype, n| Ok(max_packed(on, dtype, n)?.into_iter().map(|[_, dx]| dx).collect());
    mean_packed_grad, BLOCK, &PACKED, |on, dtype, n| {
        let pack = 16 / dtype.size();
        let mut made = Vec::new();
        for (dims, channels_last) in [([1, n, 2, pack / 2], false), ([n, 1, 1, pack], true)] {
            let (grad, mut dx) = (images(on, dtype, [dims[0], 1, 1, dims[3]], true), images(on, dtype, dims, channels_last));
            let grad = if channels_last { grad } else { tensor(on, dtype, &[1, n, 1, 1], MemoryLayout::Dense, 1) };
            on.avg_pool2d_grad(AvgPool2dGradArgs { pool: Pool2d::Adaptive, divisor: PoolDivisor::Inside, grad: grad.view(), out: dx.view_mut() }.checked()?)?;
            made.push(dx);
        }
        Ok(made)
    };
    avg_pool, BLOCK, &FLOATS, |on, dtype, n| {
        let (x, mut out) = (tensor(on, dtype, &[1, 2, n, 4], MemoryLayout::Dense, 1), target(on, dtype, &[1, 2, n / 2, 2], MemoryLayout::Dense));
        on.avg_pool2d(AvgPool2dArgs { pool: PAIRS, divisor: PoolDivisor::Inside, x: x.view(), out: out.view_mut() }.checked()?)?;
        Ok(vec![out])
    };
    avg_pool_grad, BLOCK, &FLOATS, |on, dtype, n| {
        let (grad, mut dx) = (tensor(on, dtype, &[1, 2, n / 2, 2], MemoryLayout::Dense, 1), target(on, dtype, &[1, 2, n, 4], MemoryLayout::Dense));
        on.avg_pool2d_grad(AvgPool2dGradArgs { pool: PAIRS, divisor: PoolDivisor::Inside, grad: grad.view(), out: dx.view_mut() }.checked()?)?;
        Ok(vec![dx])
    };
    norm, TEAMS, &FLOATS, |on, dtype, n| normalized(on, dtype, n, &[[n, 7, 1, 1], [8, n, 1, 1], [40, 3, 10, 11]], false);
    norm_grad, TEAMS, &FLOATS, |on, dtype, n| normalized(on, dtype, n, &[[n, 7, 1, 1], [8, n, 1, 1], [40, 3, 10, 11]], true);
    // Rows, columns, and channels of two packs each.
    norm_packed, TEAMS, &PACKED, |on, dtype, n| {
        let pack = 16 / dtype.size();
        normalized(on, dtype, n, &[[n, 2 * pack, 1, 1], [2, n * pack, 1, 1], [1, n, 2, pack]], false)
    };
    norm_packed_grad, TEAMS, &PACKED, |on, dtype, n| {
        let pack = 16 / dtype.size();
        normalized(on, dtype, n, &[[n, 2 * pack, 1, 1], [2, n * pack, 1, 1], [1, n, 2, pack]], true)
    };
    relu_bias_grad, TEAMS, &FLOATS, |on, dtype, n| {
        let mut made = Vec::new();
        // Rows along memory, columns across it, and few columns that many teams share.
        for (dims, dim) in [([n, 7], 0), ([8, n], 1), ([5000, 3], 1)] {
            if dims[1] == 3 && n > 2 * TEAMS {
                continue;
            }
            let (grad, y) = (tensor(on, dtype, &dims, MemoryLayout::Dense, 1), tensor(on, dtype, &dims, MemoryLayout::Dense, 2));
            let (mut out, mut sums) = (target(on, dtype, &dims, MemoryLayout::Dense), target(on, dtype, &[dims[dim]], MemoryLayout::Dense));
            on.relu_bias_grad(ReluBiasGradArgs { grad: grad.view(), y: y.view(), dim, out: out.view_mut(), bias: sums.view_mut() }.checked()?)?;
            made.push(out);
            // Longer sums differ by more than one rounding.
            if dims[1] != 3 || dtype == F64 {
                made.push(sums);
            }
        }
        Ok(made)
    };
    relu_bias_grad_packed, TEAMS, &PACKED, |on, dtype, n| {
        let mut made = Vec::new();
        let pack = 16 / dtype.size();
        // Groups of two packs each, along memory and across it.
        for (dims, dim) in [([n, 2 * pack], 0), ([2, n * pack], 1)] {
            let (grad, y) = (tensor(on, dtype, &dims, MemoryLayout::Dense, 1), tensor(on, dtype, &dims, MemoryLayout::Dense, 2));
            let (mut out, mut sums) = (target(on, dtype, &dims, MemoryLayout::Dense), target(on, dtype, &[dims[dim]], MemoryLayout::Dense));
            on.relu_bias_grad(ReluBiasGradArgs { grad: grad.view(), y: y.view(), dim, out: out.view_mut(), bias: sums.view_mut() }.checked()?)?;
            made.extend([out, sums]);
        }
        Ok(made)
    };
    // An element at a time, and a pack of 16 bytes.
    rnn_cell, BLOCK, &FLOATS, |on, dtype, n| recurrent(on, dtype, n, Cells::forward);
    rnn_cell_grad, BLOCK, &FLOATS, |on, dtype, n| recurrent(on, dtype, n, Cells::backward);
    class_loss, TEAMS, &FLOATS, |on, dtype, n| class_losses(on, dtype, n, 5, false);
    class_loss_grad, TEAMS, &FLOATS, |on, dtype, n| class_losses(on, dtype, n, 5, true);
    class_loss_packed, TEAMS, &PACKED, |on, dtype, n| class_losses(on, dtype, n, 64, false);
    class_loss_packed_grad, TEAMS, &PACKED, |on, dtype, n| class_losses(on, dtype, n, 64, true);
    pointwise_loss, BLOCK, &FLOATS, |on, dtype, n| {
        let (x, t) = (tensor(on, dtype, &[n], MemoryLayout::Dense, 1), tensor(on, dtype, &[n], MemoryLayout::Dense, 2));
        let mut made = Vec::new();
        for reduction in [Reduction::None, Reduction::Mean] {
            let mut out = target(on, dtype, if reduction == Reduction::None { std::slice::from_ref(&n) } else { &[] }, MemoryLayout::Dense);
            on.pointwise_loss(PointwiseLossArgs { loss: squares(reduction, &x, &t), out: out.view_mut() }.checked()?)?;
            made.push(out);
        }
        Ok(made)
    };
    pointwise_loss_grad, BLOCK, &FLOATS, |on, dtype, n| {
        let (x, t) = (tensor(on, dtype, &[n], MemoryLayout::Dense, 1), tensor(on, dtype, &[n], MemoryLayout::Dense, 2));
        let (g, mut dx) = (tensor(on, dtype, &[n], MemoryLayout::Dense, 3), target(on, dtype, &[n], MemoryLayout::Dense));
        on.pointwise_loss_grad(PointwiseLossGradArgs { loss: squares(Reduction::None, &x, &t), grad: g.view(), out: dx.view_mut() }.checked()?)?;
        Ok(vec![dx])
    };
}

/// Families without a loop over their grid.
const NO_GRID_LOOP: &[(&str, &str)] = &[
    ("optim", "a block has 4096 elements of one parameter: `optimizers.rs` has parameters of more"),
    ("unscale_grads", "as of `optim`, of one gradient: `unscaled_gradients` has one of more"),
    ("update_scale", "one thread moves the scale"),
    ("loss_finish", "one block reads the partial sums of all: `partial_sums_of_many_blocks` has more than 256"),
];

/// The table is whole: each kernel is of a family in it.
#[test]
fn every_family_has_a_row() {
    let families: Vec<&str> = ROWS.iter().map(|row| row.family).chain(NO_GRID_LOOP.iter().map(|row| row.0)).collect();
    for entry in launch::ENTRIES {
        let of = |family: &&&str| entry.name.strip_prefix(**family).is_some_and(|rest| rest.starts_with('_'));
        assert!(families.iter().any(|family| of(&family)), "{} has no row", entry.name);
    }
    for family in families {
        assert!(launch::ENTRIES.iter().any(|entry| entry.name.starts_with(family)), "there is no kernel of {family}");
    }
}

/// The sums of 257 blocks and more, which one block adds up.
#[test]
fn partial_sums_of_many_blocks() {
    for dtype in [F32, F64] {
        same("a loss of 70000 elements", |on| {
            let (x, t) = (
                tensor(on, dtype, &[70_000], MemoryLayout::Dense, 1),
                tensor(on, dtype, &[70_000], MemoryLayout::Dense, 2),
            );
            let mut out = target(on, dtype, &[], MemoryLayout::Dense);
            on.pointwise_loss(
                PointwiseLossArgs { loss: squares(Reduction::Mean, &x, &t), out: out.view_mut() }.checked()?,
            )?;
            Ok(vec![out])
        });
    }
}
