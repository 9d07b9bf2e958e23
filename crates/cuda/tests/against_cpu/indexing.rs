//! Indexing operations (gather, scatter, index_select, …) against the CPU.

use kiln_backend::*;

use crate::support::*;

/// A case for each dimension and each dtype that can be added up.
fn each(case: impl Fn(&dyn Backend, DType, usize) -> Result<Vec<Tensor>>) {
    for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::Bool) {
        for dim in 0..2 {
            same(&format!("{dtype} {dim}"), |on| case(on, dtype, dim));
        }
    }
}

/// `[6, 7]` with 5 along `dim`.
fn five(dim: usize) -> [usize; 2] {
    let mut dims = [6, 7];
    dims[dim] = 5;
    dims
}

#[test]
fn index_select() {
    each(|on, dtype, dim| {
        let (x, rows) = (tensor(on, dtype, &[6, 7], MemoryLayout::Turned, 1), index(on, &[5], 6));
        let mut taken = target(on, dtype, &five(dim), MemoryLayout::Dense);
        on.index_select(IndexSelectArgs { x: x.view(), dim, index: rows.view(), out: taken.view_mut() }.checked()?)?;
        Ok(vec![taken])
    });
}

#[test]
fn index_add() {
    each(|on, dtype, dim| {
        let (x, rows) = (tensor(on, dtype, &five(dim), MemoryLayout::Sliced, 1), index(on, &[5], 6));
        let mut added = tensor(on, dtype, &[6, 7], MemoryLayout::Dense, 2);
        on.index_add(IndexAddArgs { x: x.view(), dim, index: rows.view(), out: added.view_mut() }.checked()?)?;
        Ok(vec![added])
    });
}

#[test]
fn gather() {
    each(|on, dtype, dim| {
        let (x, each) = (tensor(on, dtype, &[6, 7], MemoryLayout::Turned, 1), index(on, &[4, 3], 6));
        let mut gathered = target(on, dtype, &[4, 3], MemoryLayout::Sliced);
        on.gather(GatherArgs { x: x.view(), dim, index: each.view(), out: gathered.view_mut() }.checked()?)?;
        Ok(vec![gathered])
    });
}

fn scatters(mode: ScatterMode) {
    each(|on, dtype, dim| {
        if dtype.is_half() && matches!(mode, ScatterMode::Mul | ScatterMode::Min | ScatterMode::Max) {
            return Ok(Vec::new());
        }
        let (x, each) = (tensor(on, dtype, &[4, 3], MemoryLayout::Sliced, 1), index(on, &[4, 3], 6));
        let [mut from, mut number] = [0, 1].map(|_| tensor(on, dtype, &[6, 7], MemoryLayout::Turned, 3));
        on.scatter(
            ScatterArgs { mode, x: Operand::Tensor(x.view()), dim, index: each.view(), out: from.view_mut() }
                .checked()?,
        )?;
        on.scatter(
            ScatterArgs { mode, x: Operand::Scalar(Scalar::Int(2)), dim, index: each.view(), out: number.view_mut() }
                .checked()?,
        )?;
        // One index in each line, for which half precision needs no memory for sums.
        let mut one = [4, 3];
        one[dim] = 1;
        let (single, mut once) = (index(on, &one, 6), tensor(on, dtype, &[6, 7], MemoryLayout::Dense, 4));
        on.scatter(
            ScatterArgs { mode, x: Operand::Tensor(x.view()), dim, index: single.view(), out: once.view_mut() }
                .checked()?,
        )?;
        Ok(vec![from, number, once])
    });
}

#[test]
fn scatter() {
    scatters(ScatterMode::Set);
}

#[test]
fn scatter_add() {
    scatters(ScatterMode::Add);
}

#[test]
fn scatter_mul() {
    scatters(ScatterMode::Mul);
}

#[test]
fn scatter_min() {
    scatters(ScatterMode::Min);
}

#[test]
fn scatter_max() {
    scatters(ScatterMode::Max);
}

/// NaN stays, also if a number comes after it.
#[test]
fn scatters_of_nan() {
    for mode in [ScatterMode::Mul, ScatterMode::Min, ScatterMode::Max] {
        for dtype in [DType::F32, DType::F64] {
            same(&format!("{mode:?} {dtype}"), |on| {
                let vector = |values: &[f64]| Tensor {
                    buffer: on.adopt(host(dtype, values)).unwrap(),
                    layout: Layout::contiguous(Shape::new(&[values.len()]).unwrap()),
                };
                let (x, each) = (vector(&[f64::NAN, 1.0, 2.0, -3.0, f64::INFINITY]), index(on, &[5], 3));
                let mut out = vector(&[0.5, f64::NAN, -0.0]);
                on.scatter(
                    ScatterArgs { mode, x: Operand::Tensor(x.view()), dim: 0, index: each.view(), out: out.view_mut() }
                        .checked()?,
                )?;
                Ok(vec![out])
            });
        }
    }
}

fn ones(on: &dyn Backend, dtype: DType, dims: &[usize]) -> Tensor {
    let layout = Layout::contiguous(Shape::new(dims).unwrap());
    Tensor { buffer: on.adopt(host(dtype, &vec![1.0; layout.numel()])).unwrap(), layout }
}

/// Half precision would lose terms: 2048 + 1 is 2048.
#[test]
fn scatter_add_and_index_add_of_half_precision_are_rounded_once() {
    for dtype in [DType::F16, DType::BF16] {
        for memory in [MemoryLayout::Dense, MemoryLayout::Turned] {
            same("indexing", |on| {
                let rows = index(on, &[9000], 3);
                let x = ones(on, dtype, &[9000, 5]);
                let mut added = tensor(on, dtype, &[3, 5], memory, 2);
                on.index_add(
                    IndexAddArgs { x: x.view(), dim: 0, index: rows.view(), out: added.view_mut() }.checked()?,
                )?;
                let each = index(on, &[2, 7000], 3);
                let x = ones(on, dtype, &[2, 7000]);
                let mut sum = tensor(on, dtype, &[2, 3], memory, 3);
                on.scatter(
                    ScatterArgs {
                        mode: ScatterMode::Add,
                        x: Operand::Tensor(x.view()),
                        dim: 1,
                        index: each.view(),
                        out: sum.view_mut(),
                    }
                    .checked()?,
                )?;
                let mut number = tensor(on, dtype, &[2, 3], memory, 3);
                on.scatter(
                    ScatterArgs {
                        mode: ScatterMode::Add,
                        x: Operand::Scalar(Scalar::Int(1)),
                        dim: 1,
                        index: each.view(),
                        out: number.view_mut(),
                    }
                    .checked()?,
                )?;
                Ok(vec![added, sum, number])
            });
        }
    }
}

#[test]
fn index_select_reports_a_wild_index_when_the_device_is_waited_for() {
    let Some(device) = device() else { return };
    let _alone = RECORD.write();
    let x = tensor(device, DType::F32, &[6, 7], MemoryLayout::Dense, 1);
    let (wild, mut out) = (index(device, &[5], 9), target(device, DType::F32, &[5, 7], MemoryLayout::Dense));
    device
        .index_select(
            IndexSelectArgs { x: x.view(), dim: 0, index: wild.view(), out: out.view_mut() }.checked().unwrap(),
        )
        .unwrap();
    let error = device.synchronize().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::IndexOutOfRange { op: "index_select", size: 6, .. }), "{error}");
    device.synchronize().unwrap();
}
