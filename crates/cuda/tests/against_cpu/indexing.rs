//! Indices.

use kiln_backend::*;

use crate::support::*;

#[test]
fn indexing() {
    for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::Bool) {
        for dim in 0..2 {
            same("indexing", |on| {
                let x = tensor(on, dtype, &[6, 7], Lie::Turned, 1);
                let rows = index(on, &[5], 6);
                let mut dims = [6, 7];
                dims[dim] = 5;
                let mut taken = target(on, dtype, &dims, Lie::Dense);
                on.index_select(x.view(), dim, rows.view(), taken.view_mut())?;
                let mut added = tensor(on, dtype, &[6, 7], Lie::Dense, 2);
                on.index_add(taken.view(), dim, rows.view(), added.view_mut())?;
                let each = index(on, &[4, 3], 6);
                let mut gathered = target(on, dtype, &[4, 3], Lie::Sliced);
                on.gather(x.view(), dim, each.view(), gathered.view_mut())?;
                let [mut set, mut sum] = [0, 1].map(|_| tensor(on, dtype, &[6, 7], Lie::Turned, 3));
                on.scatter(ScatterMode::Set, Operand::Tensor(gathered.view()), dim, each.view(), set.view_mut())?;
                on.scatter(ScatterMode::Add, Operand::Scalar(Scalar::Int(2)), dim, each.view(), sum.view_mut())?;
                Ok(vec![taken, added, gathered, set, sum])
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
fn sums_of_half_precision_are_rounded_once() {
    for dtype in [DType::F16, DType::BF16] {
        for lie in [Lie::Dense, Lie::Turned] {
            same("indexing", |on| {
                let rows = index(on, &[9000], 3);
                let x = ones(on, dtype, &[9000, 5]);
                let mut added = tensor(on, dtype, &[3, 5], lie, 2);
                on.index_add(x.view(), 0, rows.view(), added.view_mut())?;
                let each = index(on, &[2, 7000], 3);
                let x = ones(on, dtype, &[2, 7000]);
                let mut sum = tensor(on, dtype, &[2, 3], lie, 3);
                on.scatter(ScatterMode::Add, Operand::Tensor(x.view()), 1, each.view(), sum.view_mut())?;
                let mut number = tensor(on, dtype, &[2, 3], lie, 3);
                on.scatter(ScatterMode::Add, Operand::Scalar(Scalar::Int(1)), 1, each.view(), number.view_mut())?;
                Ok(vec![added, sum, number])
            });
        }
    }
}

#[test]
fn wild_indices_are_reported_when_the_device_is_waited_for() {
    let Some(device) = device() else { return };
    let _alone = RECORD.write();
    let x = tensor(device, DType::F32, &[6, 7], Lie::Dense, 1);
    let (wild, mut out) = (index(device, &[5], 9), target(device, DType::F32, &[5, 7], Lie::Dense));
    device.index_select(x.view(), 0, wild.view(), out.view_mut()).unwrap();
    let error = device.synchronize().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::IndexOutOfRange { op: "index_select", size: 6, .. }), "{error}");
    device.synchronize().unwrap();
}
