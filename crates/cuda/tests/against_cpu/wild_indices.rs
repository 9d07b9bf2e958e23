//! Indices outside the indexed dimension, in every operation that reads indices: -1 (backends do not count from the
//! end; callers that do add the extent first), `-n - 1`, `n`, and the ends of `i64`. The device reports such an index
//! and processes the others; the element of a bad index is unchanged.

use kiln_backend::*;

use crate::support::*;

/// Extent of the indexed dimension.
const SIZE: usize = 3;
const WILD: [i64; 5] = [-1, -(SIZE as i64) - 1, SIZE as i64, i64::MIN, i64::MAX];

fn vector(on: &dyn Backend, dtype: DType, values: &[f64]) -> Tensor {
    let layout = Layout::contiguous(Shape::new(&[values.len()]).unwrap());
    Tensor { buffer: on.adopt(host(dtype, values)).unwrap(), layout }
}

fn indices(on: &dyn Backend, values: &[i64]) -> Tensor {
    let layout = Layout::contiguous(Shape::new(&[values.len()]).unwrap());
    Tensor { buffer: on.adopt(HostVec::I64(values.to_vec())).unwrap(), layout }
}

/// Runs `case` with the indices `[2, wild, 0]`: on the CPU, which refuses at once, and on the device, which reports when it is
/// waited for and whose result is then `want`.
fn check(
    op: &str,
    dtype: DType,
    want: &[f64],
    case: impl Fn(&dyn Backend, View, &mut Tensor) -> Result<()>,
    out: &[f64],
) {
    let Some(device) = device() else { return };
    let _alone = RECORD.write();
    device.synchronize().unwrap();
    for wild in WILD {
        let is_it = |error: &Error| match error.kind() {
            ErrorKind::IndexOutOfRange { op: named, index, size, .. } => (*named, *index, *size) == (op, wild, SIZE),
            _ => false,
        };
        for on in [device as &dyn Backend, kiln_cpu::backend().unwrap()] {
            let (index, mut to) = (indices(on, &[2, wild, 0]), vector(on, dtype, out));
            let done = case(on, index.view(), &mut to).and_then(|()| on.synchronize());
            let error = done.expect_err(op);
            assert!(is_it(&error), "{op} {dtype}, {wild} on {on:?}: {error}");
            on.synchronize().unwrap();
            if std::ptr::addr_eq(on, device) {
                assert_eq!(read(on, &to), want, "{op} {dtype}, {wild}");
            }
        }
    }
}

/// One dtype of each width.
const WIDTHS: [DType; 4] = [DType::U8, DType::F16, DType::F32, DType::F64];

#[test]
fn gather() {
    for dtype in WIDTHS {
        let case = |on: &dyn Backend, index: View, out: &mut Tensor| {
            on.gather(
                GatherArgs { x: vector(on, dtype, &[10.0, 20.0, 30.0]).view(), dim: 0, index, out: out.view_mut() }
                    .checked()?,
            )
        };
        check("gather", dtype, &[30.0, 8.0, 10.0], case, &[7.0, 8.0, 9.0]);
    }
}

#[test]
fn index_select() {
    for dtype in WIDTHS {
        let case = |on: &dyn Backend, index: View, out: &mut Tensor| {
            on.index_select(
                IndexSelectArgs {
                    x: vector(on, dtype, &[10.0, 20.0, 30.0]).view(),
                    dim: 0,
                    index,
                    out: out.view_mut(),
                }
                .checked()?,
            )
        };
        check("index_select", dtype, &[30.0, 8.0, 10.0], case, &[7.0, 8.0, 9.0]);
    }
}

#[test]
fn scatter() {
    for dtype in WIDTHS {
        let case = |on: &dyn Backend, index: View, out: &mut Tensor| {
            let x = vector(on, dtype, &[10.0, 20.0, 30.0]);
            on.scatter(
                ScatterArgs {
                    mode: ScatterMode::Set,
                    x: Operand::Tensor(x.view()),
                    dim: 0,
                    index,
                    out: out.view_mut(),
                }
                .checked()?,
            )
        };
        check("scatter", dtype, &[30.0, 8.0, 10.0], case, &[7.0, 8.0, 9.0]);
        let number = |on: &dyn Backend, index: View, out: &mut Tensor| {
            on.scatter(
                ScatterArgs {
                    mode: ScatterMode::Set,
                    x: Operand::Scalar(Scalar::Int(5)),
                    dim: 0,
                    index,
                    out: out.view_mut(),
                }
                .checked()?,
            )
        };
        check("scatter", dtype, &[5.0, 8.0, 5.0], number, &[7.0, 8.0, 9.0]);
    }
}

#[test]
fn scatter_add() {
    for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::Bool) {
        let case = |on: &dyn Backend, index: View, out: &mut Tensor| {
            let x = vector(on, dtype, &[10.0, 20.0, 30.0]);
            on.scatter(
                ScatterArgs {
                    mode: ScatterMode::Add,
                    x: Operand::Tensor(x.view()),
                    dim: 0,
                    index,
                    out: out.view_mut(),
                }
                .checked()?,
            )
        };
        check("scatter_add", dtype, &[37.0, 8.0, 19.0], case, &[7.0, 8.0, 9.0]);
    }
}

#[test]
fn index_add() {
    for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::Bool) {
        let case = |on: &dyn Backend, index: View, out: &mut Tensor| {
            on.index_add(
                IndexAddArgs { x: vector(on, dtype, &[10.0, 20.0, 30.0]).view(), dim: 0, index, out: out.view_mut() }
                    .checked()?,
            )
        };
        check("index_add", dtype, &[37.0, 8.0, 19.0], case, &[7.0, 8.0, 9.0]);
    }
}

/// Rows of a wild label have no loss.
#[test]
fn class_loss() {
    for dtype in FLOATS {
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let case = |on: &dyn Backend, labels: View, loss: &mut Tensor| {
            let (input, reduction) = (ClassLossInput::LogProbs, Reduction::None);
            let rule = ClassLoss { input, reduction, ignore_index: -100, label_smoothing: 0.0 };
            let x = vector(on, dtype, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
            let x = Tensor { layout: Layout::contiguous(Shape::new(&[3, SIZE, 1])?), ..x };
            let column = labels.layout.unsqueeze(1)?;
            let labels = View { layout: &column, ..labels };
            let (mut lse, mut total) =
                (target(on, wide, &[3, 1], MemoryLayout::Dense), target(on, wide, &[], MemoryLayout::Dense));
            let rows = loss.layout.unsqueeze(1)?;
            let to = ViewMut { buffer: &mut *loss.buffer, layout: &rows };
            on.class_loss(
                ClassLossArgs {
                    operands: ClassLossOperands { rule, x: x.view(), target: labels, weight: None },
                    loss: to,
                    lse: lse.view_mut(),
                    total: total.view_mut(),
                    grad: None,
                }
                .checked()?,
            )
        };
        let op = "nll_loss";
        check(op, dtype, &[-3.0, 0.0, -7.0], case, &[5.0, 5.0, 5.0]);
    }
}
