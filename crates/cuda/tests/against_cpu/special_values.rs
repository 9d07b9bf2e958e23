//! Zeros of both signs, infinities, NaNs and their payloads, and extreme numbers of each type: data movement preserves
//! every bit, sorting gives the CPU's order, and sums in half precision are rounded once.

use kiln_backend::{
    ArgReduceArgs, Arguments, CumsumArgs, DType::*, GatherArgs, IndexSelectArgs, ReduceArgs, ScatterArgs,
    SearchsortedArgs, SortArgs, TrilTriuArgs, *,
};

use crate::support::*;

/// Bits that no arithmetic makes: zeros of both signs, infinities, quiet NaNs of both signs with and without payloads,
/// denormals, and a few numbers between them.
fn odd_bits(dtype: DType, n: usize) -> HostVec {
    let (fraction, exponent) = match dtype {
        F64 => (52, 11),
        F32 => (23, 8),
        F16 => (10, 5),
        BF16 => (7, 8),
        _ => panic!("floats have special values"),
    };
    let infinity = ((1u64 << exponent) - 1) << fraction;
    let sign = 1u64 << (fraction + exponent);
    let one = ((1u64 << (exponent - 1)) - 1) << fraction;
    let quiet = infinity | 1 << (fraction - 1);
    let all = [
        0,
        sign,
        one,
        sign,
        0,
        quiet,
        infinity,
        sign | infinity,
        sign | quiet,
        0,
        sign | one,
        quiet | 5,
        sign,
        quiet | 1,
        sign | quiet | 3,
        one + 1,
        1,
        sign | 1,
        0,
    ];
    let bits: Vec<u64> = (0..n).map(|i| all[(i * 7 + i / 19) % all.len()]).collect();
    match dtype {
        F64 => HostVec::F64(bits.into_iter().map(f64::from_bits).collect()),
        F32 => HostVec::F32(bits.into_iter().map(|v| f32::from_bits(v as u32)).collect()),
        F16 => HostVec::F16(bits.into_iter().map(|v| half::f16::from_bits(v as u16)).collect()),
        _ => HostVec::BF16(bits.into_iter().map(|v| half::bf16::from_bits(v as u16)).collect()),
    }
}

fn odd(on: &dyn Backend, dtype: DType, dims: &[usize]) -> Tensor {
    let layout = Layout::contiguous(Shape::new(dims).unwrap());
    Tensor { buffer: on.adopt(odd_bits(dtype, layout.numel())).unwrap(), layout }
}

/// Integers at the ends of their types.
fn ends(on: &dyn Backend, dtype: DType, n: usize) -> Tensor {
    let all = [i64::MAX, i64::MIN, 0, -1, 1, i64::from(i32::MAX), i64::from(i32::MIN), 255, 128];
    let values: Vec<i64> = (0..n).map(|i| all[(i * 5 + i / 9) % all.len()]).collect();
    let data = match dtype {
        I64 => HostVec::I64(values),
        I32 => HostVec::I32(values.into_iter().map(|v| v as i32).collect()),
        _ => HostVec::U8(values.into_iter().map(|v| v as u8).collect()),
    };
    Tensor { buffer: on.adopt(data).unwrap(), layout: Layout::contiguous(Shape::new(&[n]).unwrap()) }
}

fn sort_of(on: &dyn Backend, x: &Tensor, dim: usize) -> Result<Vec<Tensor>> {
    let (dims, dtype) = (x.layout.dims(), x.buffer.dtype());
    let mut made = Vec::new();
    for descending in [false, true] {
        let (mut values, mut order) =
            (target(on, dtype, dims, MemoryLayout::Dense), target(on, I64, dims, MemoryLayout::Dense));
        on.sort(
            SortArgs { x: x.view(), dim, descending, values: values.view_mut(), indices: order.view_mut() }
                .checked()?,
        )?;
        made.extend([values, order]);
    }
    Ok(made)
}

/// -0 and 0 are equal and keep their order, as NaNs do, which are last whatever their sign.
#[test]
fn sort() {
    for dtype in FLOATS {
        for (dims, dim) in [([1, 19], 1), ([3, 57], 1), ([40, 2], 0), ([1, 2100], 1)] {
            same_bits(&format!("{dtype} {dims:?}"), |on| sort_of(on, &odd(on, dtype, &dims), dim));
        }
    }
    for dtype in [I64, I32, U8] {
        same_bits(&format!("{dtype}"), |on| sort_of(on, &ends(on, dtype, 70), 0));
    }
}

#[test]
fn searchsorted() {
    for dtype in FLOATS {
        for right in [false, true] {
            same_bits(&format!("{dtype} {right}"), |on| {
                let x = odd(on, dtype, &[57]);
                let sorted = sort_of(on, &x, 0)?.swap_remove(0);
                let mut out = target(on, I64, &[57], MemoryLayout::Dense);
                on.searchsorted(
                    SearchsortedArgs { sorted: sorted.view(), values: x.view(), right, out: out.view_mut() }
                        .checked()?,
                )?;
                Ok(vec![out])
            });
        }
    }
}

#[test]
fn argmax_and_argmin() {
    for dtype in FLOATS {
        // NaNs of half precision are converted for the comparison, and lose what they carry.
        let compare = |name: &str, case: &dyn Fn(&dyn Backend) -> Result<Vec<Tensor>>| {
            if matches!(dtype, F32 | F64) { same_bits(name, case) } else { same(name, case) }
        };
        for op in [ArgReduceOp::Max, ArgReduceOp::Min] {
            for start in [0, 3, 7] {
                compare(&format!("{dtype} {op:?} {start}"), &|on| {
                    let x = odd(on, dtype, &[9, 19]);
                    let part = x.layout.slice(1, start, start + 5, 1);
                    let x = View { buffer: &*x.buffer, layout: &part };
                    let mut best = target(on, dtype, &[9, 1], MemoryLayout::Dense);
                    let mut at = target(on, I64, &[9, 1], MemoryLayout::Dense);
                    on.arg_reduce(
                        ArgReduceArgs { op, x, dim: 1, values: Some(best.view_mut()), indices: at.view_mut() }
                            .checked()?,
                    )?;
                    Ok(vec![best, at])
                });
            }
        }
    }
}

/// Copies, choices and moves by index are of bits.
#[test]
fn moves() {
    for dtype in FLOATS {
        same_bits(&format!("{dtype}"), |on| {
            let x = odd(on, dtype, &[19, 4]);
            let mut made = Vec::new();
            for memory in MEMORY_LAYOUTS {
                let mut copy = target(on, dtype, &[19, 4], memory);
                on.copy(CopyArgs { x: x.view(), out: copy.view_mut() }.checked()?)?;
                made.push(copy);
            }
            let (rows, each) = (index(on, &[30], 19), index(on, &[19, 4], 19));
            let mut taken = target(on, dtype, &[30, 4], MemoryLayout::Dense);
            on.index_select(
                IndexSelectArgs { x: x.view(), dim: 0, index: rows.view(), out: taken.view_mut() }.checked()?,
            )?;
            let [mut gathered, mut set, mut chosen, mut kept] =
                [0; 4].map(|_| target(on, dtype, &[19, 4], MemoryLayout::Dense));
            on.gather(GatherArgs { x: x.view(), dim: 0, index: each.view(), out: gathered.view_mut() }.checked()?)?;
            on.scatter(
                ScatterArgs {
                    mode: ScatterMode::Set,
                    x: Operand::Tensor(x.view()),
                    dim: 0,
                    index: each.view(),
                    out: set.view_mut(),
                }
                .checked()?,
            )?;
            let condition = tensor(on, Bool, &[19, 4], MemoryLayout::Dense, 1);
            on.where_cond(
                WhereCondArgs {
                    condition: condition.view(),
                    a: Operand::Tensor(x.view()),
                    b: Operand::Scalar(Scalar::Float(-0.0)),
                    out: chosen.view_mut(),
                }
                .checked()?,
            )?;
            on.tril_triu(TrilTriuArgs { upper: true, diagonal: -2, x: x.view(), out: kept.view_mut() }.checked()?)?;
            made.extend([taken, gathered, set, chosen, kept]);
            Ok(made)
        });
    }
}

/// Numbers of one sign: thousands of them sum to more than half precision can add 1 to (2048 in `f16`, 256 in `bf16`), and
/// 70,000 of them to more than `f16` can hold. Their bits are exact in both.
fn many(on: &dyn Backend, dtype: DType, dims: &[usize]) -> Tensor {
    let layout = Layout::contiguous(Shape::new(dims).unwrap());
    let values: Vec<f64> = (0..layout.numel()).map(|i| 2.0 + (i % 7) as f64 / 8.0).collect();
    Tensor { buffer: on.adopt(host(dtype, &values)).unwrap(), layout }
}

/// Checks that results of half precision are those of `f64`, rounded once: off by half a unit of the last place, and by what
/// sums in `f32` may differ.
fn rounded_once(name: &str, dtype: DType, got: &[f64], want: &[f64]) {
    let fraction = if dtype == F16 { 10 } else { 7 };
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let last_place = 2f64.powf(want.abs().log2().floor()) / f64::from(1 << fraction);
        let close = (got - want).abs() <= 0.5 * last_place + 1e-5 * want.abs();
        assert!(close, "{name} {dtype}: element {i} is {got}, not {want}");
    }
}

/// The reductions and scans of half precision, against the same of `f64`.
#[test]
fn sums_in_half_precision() {
    use ReduceOp as R;
    let Some(device) = device() else { return };
    let _others_too = RECORD.read();
    for dtype in [F16, BF16] {
        // Rows of teams along memory and across it; in one stage and in two.
        for (dims, to) in [([2, 20_000], [2, 1]), ([20_000, 2], [1, 2]), ([3, 1000], [3, 1]), ([1, 70_000], [1, 1])] {
            for op in [R::Mean, R::Var { correction: 1.0 }, R::LogSumExp, R::Sum] {
                // A sum that is infinite in the type says nothing.
                if op == R::Sum && dtype == F16 && dims[1] == 70_000 {
                    continue;
                }
                let run = |dtype: DType| -> Result<Vec<f64>> {
                    let (x, mut out) = (many(device, dtype, &dims), target(device, dtype, &to, MemoryLayout::Dense));
                    device.reduce(ReduceArgs { op, x: x.view(), out: out.view_mut() }.checked()?)?;
                    Ok(read(device, &out))
                };
                rounded_once(&format!("{op:?} {dims:?}"), dtype, &run(dtype).unwrap(), &run(F64).unwrap());
            }
        }
        let run = |dtype: DType| -> Result<Vec<f64>> {
            let (x, mut out) =
                (many(device, dtype, &[2, 3000]), target(device, dtype, &[2, 3000], MemoryLayout::Dense));
            device.cumsum(CumsumArgs { x: x.view(), dim: 1, out: out.view_mut() }.checked()?)?;
            Ok(read(device, &out))
        };
        rounded_once("cumsum", dtype, &run(dtype).unwrap(), &run(F64).unwrap());
    }
}

/// Parameters, gradients and states that are infinite, NaN, huge or of either zero, with and without weight decay: the rest
/// of the parameter is as without them, and they become what the CPU makes of them.
#[test]
fn optimizers() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let edge = [0.0, -0.0, inf, -inf, nan, 1.5, -2.0, 6e4, -6e4, 1e-7];
    for weight_decay in [0.0, 0.01] {
        let adam = |decoupled, amsgrad, maximize| OptimRule::Adam {
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay,
            decoupled,
            amsgrad,
            maximize,
        };
        let sgd = |momentum, nesterov, maximize| OptimRule::Sgd {
            momentum,
            dampening: 0.0,
            nesterov,
            weight_decay,
            maximize,
        };
        let rms_prop = |momentum, centered| OptimRule::RmsProp {
            alpha: 0.9,
            eps: 1e-3,
            weight_decay,
            momentum,
            centered,
            maximize: false,
        };
        let rules = [
            sgd(0.0, false, false),
            sgd(0.9, false, true),
            sgd(0.9, true, false),
            adam(false, false, false),
            adam(false, true, true),
            adam(true, false, false),
            rms_prop(0.0, false),
            rms_prop(0.5, true),
            OptimRule::Adagrad { lr_decay: 0.1, weight_decay, eps: 1e-3, maximize: false },
        ];
        for rule in rules {
            for dtype in FLOATS {
                same(&format!("{rule:?} {dtype}"), |on| {
                    // Every pair of a parameter and a gradient, and every state beside some of them.
                    let n = edge.len() * edge.len();
                    let vector = |values: Vec<f64>| Tensor {
                        buffer: on.adopt(host(dtype, &values)).unwrap(),
                        layout: Layout::contiguous(Shape::new(&[n]).unwrap()),
                    };
                    let of =
                        |pick: &dyn Fn(usize) -> usize| vector((0..n).map(|i| edge[pick(i) % edge.len()]).collect());
                    let (mut param, grad) = (of(&|i| i / edge.len()), of(&|i| i));
                    let mut states: Vec<Tensor> = (0..rule.states())
                        .map(|state| if state == 0 { of(&|i| i / 3 + i / 7) } else { of(&|i| (i + state) / 11) })
                        .collect();
                    let number = |data: HostVec| Tensor {
                        buffer: on.adopt(data).unwrap(),
                        layout: Layout::contiguous(Shape::new(&[]).unwrap()),
                    };
                    let (lr, mut count) = (number(HostVec::F64(vec![0.1])), number(HostVec::I64(vec![0])));
                    for _ in 0..2 {
                        let states = states.iter_mut().map(Tensor::view_mut).collect();
                        let slot = OptimSlot {
                            param: param.view_mut(),
                            grad: grad.view(),
                            states,
                            count: count.view_mut(),
                            low: None,
                        };
                        let args = OptimArgs { rule, lr: lr.view(), scaling: None, slots: vec![slot] };
                        on.optimizer_step(args.checked()?)?;
                    }
                    Ok([param, count].into_iter().chain(states).collect())
                });
            }
        }
    }
}
