//! Tests of `sort`.

use std::cmp::Ordering;

use kiln_backend::{Arguments, DType, Layout, SearchsortedArgs, SortArgs, SortBackend};
use kiln_cpu::CpuBackend;

use crate::testing::{SHAPES, Tensor, layouts, numbers, read_layouts};

/// NaN is the largest, zeros are equal.
fn compare(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn with_specials(n: usize, seed: u64) -> Vec<f64> {
    let specials = [f64::NAN, 0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY];
    let mut values = numbers(n, seed);
    values.iter_mut().enumerate().filter(|(i, _)| i % 4 == 3).for_each(|(i, v)| *v = specials[i / 4 % 5]);
    values
}

fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[track_caller]
fn check_sort(x: &Tensor, dim: usize, descending: bool, out: Layout) {
    let mut values = Tensor::with_layout(x.view().dtype(), out, &[]);
    let mut indices = Tensor::with_layout(DType::I64, out, &[]);
    CpuBackend
        .sort(
            SortArgs { x: x.view(), dim, descending, values: values.view_mut(), indices: indices.view_mut() }
                .checked()
                .unwrap(),
        )
        .unwrap();
    let (x_values, got, at) = (x.values(), values.values(), indices.values());
    let dims = x.layout.dims();
    let len = dims.get(dim).map_or(1, |&d| d);
    let inner: usize = dims.iter().skip(dim + 1).product();
    for start in (0..x_values.len()).filter(|i| (i / inner).is_multiple_of(len)) {
        let mut order: Vec<usize> = (0..len).collect();
        order.sort_by(|&a, &b| {
            let order = compare(x_values[start + a * inner], x_values[start + b * inner]);
            if descending { order.reverse() } else { order }
        });
        for (i, &from) in order.iter().enumerate() {
            let to = start + i * inner;
            let what = format!("{:?} dim {dim} descending {descending}", x.layout);
            assert_eq!(at[to], from as f64, "{what}");
            assert!(same(got[to], x_values[start + from * inner]), "{what}");
        }
    }
}

#[test]
fn sorts_stably_along_every_dimension() {
    for dtype in DType::ALL {
        for dims in SHAPES {
            for layout in read_layouts(dims) {
                let x = Tensor::with_layout(dtype, layout, &with_specials(layout.numel(), 7));
                for dim in 0..dims.len().max(1) {
                    check_sort(&x, dim, false, Layout::contiguous(*layout.shape()));
                    check_sort(&x, dim, true, Layout::contiguous(*layout.shape()));
                }
            }
            for out in layouts(dims) {
                let x = Tensor::new(dtype, dims, &with_specials(out.numel(), 8));
                (0..dims.len()).for_each(|dim| check_sort(&x, dim, dim % 2 == 1, out));
            }
        }
    }
}

#[test]
fn long_lines_are_sorted_by_several_threads() {
    // From 65,536 elements on, more than 8 threads sort a line together.
    let n = 65_536 + 11;
    for threads in [2, 9] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for dtype in [DType::F32, DType::F64, DType::U8] {
            let x = Tensor::new(dtype, &[n], &with_specials(n, 3));
            pool.install(|| check_sort(&x, 0, true, x.layout));
        }
    }
}

#[test]
fn search_counts_smaller_elements() {
    for dtype in DType::ALL {
        for (lead, n, m) in [(&[][..], 9, 5), (&[3], 4, 7), (&[2, 3], 0, 2), (&[2], 3, 0), (&[4], 600, 300)] {
            let with = |last: usize| [lead, &[last]].concat();
            let unsorted = Tensor::new(dtype, &with(n), &with_specials(with(n).iter().product(), 5));
            let mut sorted = Tensor::empty(dtype, &with(n));
            let mut at = Tensor::empty(DType::I64, &with(n));
            CpuBackend
                .sort(
                    SortArgs {
                        x: unsorted.view(),
                        dim: lead.len(),
                        descending: false,
                        values: sorted.view_mut(),
                        indices: at.view_mut(),
                    }
                    .checked()
                    .unwrap(),
                )
                .unwrap();
            for layout in read_layouts(&with(m)) {
                let wanted = Tensor::with_layout(dtype, layout, &with_specials(layout.numel(), 6));
                for (right, out) in layouts(&with(m)).into_iter().enumerate() {
                    let right = right % 2 == 1;
                    let mut out = Tensor::with_layout(DType::I64, out, &[]);
                    CpuBackend
                        .searchsorted(
                            SearchsortedArgs {
                                sorted: sorted.view(),
                                values: wanted.view(),
                                right,
                                out: out.view_mut(),
                            }
                            .checked()
                            .unwrap(),
                        )
                        .unwrap();
                    let rows = sorted.values();
                    for (i, (got, value)) in out.values().into_iter().zip(wanted.values()).enumerate() {
                        let row = &rows[i / m * n..(i / m + 1) * n];
                        let limit = if right { Ordering::Equal } else { Ordering::Less };
                        let count = row.iter().filter(|&&s| compare(s, value) <= limit).count();
                        assert_eq!(got, count as f64, "{dtype} {layout:?} {right}");
                    }
                }
            }
        }
    }
}
