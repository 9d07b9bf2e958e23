//! Tests of `copy`.

use kiln_backend::{Arguments, CopyArgs, CopyBackend, DType, Layout};
use kiln_cpu::CpuBackend;

use crate::testing::{SHAPES, Tensor, layouts, numbers, read_layouts, shape};

#[test]
fn every_layout_and_dtype() {
    for dtype in DType::ALL {
        for dims in SHAPES.iter().copied().chain([&[65usize, 70][..], &[3, 33, 64], &[64, 3, 40]]) {
            let few = dtype == DType::F32 || dtype == DType::Bool;
            for from in read_layouts(dims) {
                let x = Tensor::with_layout(dtype, from, &numbers(from.numel(), 5));
                for to in layouts(dims).into_iter().take(if few { 3 } else { 1 }) {
                    let mut out = Tensor::with_layout(dtype, to, &vec![77.0; to.numel()]);
                    CpuBackend.copy(CopyArgs { x: x.view(), out: out.view_mut() }.checked().unwrap()).unwrap();
                    assert_eq!(out.values(), x.values(), "{dtype} {from:?} -> {to:?}");
                }
            }
        }
    }
}

#[test]
fn permuted_batches() {
    let x = Layout::contiguous(shape(&[2, 37, 3, 41]));
    for order in [[0, 2, 3, 1], [3, 2, 1, 0], [0, 3, 1, 2], [1, 0, 3, 2]] {
        let x = Tensor::with_layout(DType::I64, x.permute(&order), &(0..9102).map(f64::from).collect::<Vec<_>>());
        let mut out = Tensor::empty(DType::I64, x.layout.dims());
        CpuBackend.copy(CopyArgs { x: x.view(), out: out.view_mut() }.checked().unwrap()).unwrap();
        assert_eq!(out.values(), x.values());
    }
}

#[test]
fn conversions_are_those_of_rust() {
    let values = [0.0, -0.0, 1.0, -1.0, 0.5, -2.7, 300.6, -129.0, 1e10, -1e10, f64::NAN, f64::INFINITY, -f64::INFINITY];
    for from in DType::ALL {
        let x = Tensor::new(from, &[values.len()], &values);
        for to in DType::ALL {
            let mut out = Tensor::empty(to, &[values.len()]);
            CpuBackend.copy(CopyArgs { x: x.view(), out: out.view_mut() }.checked().unwrap()).unwrap();
            // An integer tensor's values must convert as integers: through `f64` they would saturate.
            let want: Vec<f64> = x
                .values()
                .iter()
                .map(|&v| if from.is_float() { reference(to, v) } else { reference_int(to, v as i64) })
                .collect();
            assert_eq!(format!("{:?}", out.values()), format!("{want:?}"), "{from} -> {to}");
        }
    }
}

fn reference(to: DType, v: f64) -> f64 {
    match to {
        DType::I32 => f64::from(v as i32),
        DType::U8 => f64::from(v as u8),
        DType::Bool => f64::from(u8::from(v != 0.0)),
        DType::I64 => (v as i64) as f64,
        _ => Tensor::new(to, &[1], &[v]).values()[0],
    }
}

fn reference_int(to: DType, v: i64) -> f64 {
    match to {
        DType::I32 => f64::from(v as i32),
        DType::U8 => f64::from(v as u8),
        _ => reference(to, v as f64),
    }
}
