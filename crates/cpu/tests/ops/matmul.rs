//! Tests of `matmul`.

use kiln_backend::{Arguments, DType, Layout, MatmulArgs, MatmulBackend};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, assert_close, layouts, numbers, read_layouts, shape};

pub(crate) const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

/// Inputs whose products are small enough for integers, and that integers represent.
pub(crate) fn input(dtype: DType, layout: Layout, seed: u64) -> Tensor {
    let values: Vec<f64> = numbers(layout.numel(), seed);
    let values: Vec<f64> = if dtype.is_float() { values } else { values.iter().map(|v| v.abs().floor()).collect() };
    Tensor::with_layout(dtype, layout, &values)
}

/// The product of two tensors of values with the same leading extents.
pub(crate) fn naive(a: &[f64], b: &[f64], [batch, m, n, k]: [usize; 4]) -> Vec<f64> {
    let mut out = vec![0.0; batch * m * n];
    for (at, out) in out.iter_mut().enumerate() {
        let (i, j, l) = (at / (m * n), at / n % m, at % n);
        *out = (0..k).map(|p| a[(i * m + j) * k + p] * b[(i * k + p) * n + l]).sum();
    }
    out
}

#[track_caller]
fn check(dtype: DType, a: Layout, b: Layout, out: Layout) {
    let (a, b) = (input(dtype, a, 1), input(dtype, b, 2));
    let mut out = Tensor::with_layout(dtype, out, &vec![77.0; out.numel()]);
    CpuBackend.matmul(MatmulArgs { a: a.view(), b: b.view(), out: out.view_mut() }.checked().unwrap()).unwrap();
    let lead = a.layout.rank() - 2;
    let (da, db) = (a.layout.dims(), b.layout.dims());
    let k = da[lead + 1];
    let want = naive(&a.values(), &b.values(), [da[..lead].iter().product(), da[lead], db[lead + 1], k]);
    // Rounding errors are relative to the sum of the absolute terms, of the order of k.
    let scale = |v: &[f64]| v.iter().map(|x| x / (k as f64 + 1.0)).collect::<Vec<_>>();
    let what = format!("{:?} x {:?} -> {:?}", a.layout, b.layout, out.layout);
    assert_close(&scale(&out.values()), &scale(&want), dtype, 2e4, &what);
}

#[test]
fn every_layout_and_dtype() {
    for dtype in FLOATS.into_iter().chain([DType::I64, DType::I32, DType::U8]) {
        for [m, n, k] in [[3, 5, 4], [1, 7, 3], [6, 1, 2], [1, 1, 9], [2, 3, 0], [0, 3, 2], [3, 0, 2]] {
            for a in read_layouts(&[m, k]) {
                for b in read_layouts(&[k, n]) {
                    check(dtype, a, b, Layout::contiguous(shape(&[m, n])));
                }
            }
            for out in layouts(&[m, n]) {
                check(dtype, Layout::contiguous(shape(&[m, k])), Layout::contiguous(shape(&[k, n])), out);
            }
        }
    }
}

#[test]
fn batches_broadcast_by_strides() {
    let expand = |dims: &[usize], to: &[usize]| Layout::contiguous(shape(dims)).expand("test", &shape(to)).unwrap();
    let of = |dims: &[usize]| Layout::contiguous(shape(dims));
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::I64] {
        // Folded into one product, also with single rows.
        check(dtype, of(&[4, 3, 5]), expand(&[5, 6], &[4, 5, 6]), of(&[4, 3, 6]));
        check(dtype, of(&[4, 1, 5]), expand(&[5, 6], &[4, 5, 6]), of(&[4, 1, 6]));
        check(dtype, of(&[4, 3, 5]).transpose(0, 1), expand(&[5, 6], &[3, 5, 6]), of(&[3, 4, 6]));
        check(dtype, of(&[2, 4, 3, 5]), expand(&[2, 1, 5, 6], &[2, 4, 5, 6]), of(&[2, 4, 3, 6]));
        check(dtype, expand(&[3, 5], &[2, 3, 5]), of(&[2, 5, 4]), of(&[2, 3, 4]));
        check(dtype, of(&[0, 3, 5]), of(&[0, 5, 4]), of(&[0, 3, 4]));
        check(dtype, of(&[3, 2, 4, 5]), of(&[3, 2, 5, 4]).transpose(2, 3).transpose(2, 3), of(&[3, 2, 4, 4]));
        check(dtype, of(&[70, 8, 9]), of(&[70, 9, 8]), of(&[70, 8, 8]));
    }
    check(DType::F32, of(&[130, 70]), of(&[70, 150]), of(&[130, 150]));
}
