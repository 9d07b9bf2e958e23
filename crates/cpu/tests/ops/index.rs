//! Tests of `index_select`, `index_add`, `gather` and `scatter`, against direct evaluation of the definitions.

use kiln_backend::{
    Arguments, DType, ErrorKind, GatherArgs, IndexAddArgs, IndexBackend, IndexSelectArgs, Layout, Operand, Scalar,
    ScatterArgs, ScatterMode,
};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, assert_close, layouts, numbers, read_layouts, shape};

fn contiguous(dims: &[usize]) -> Layout {
    Layout::contiguous(shape(dims))
}

/// Indices below `size`, with repetitions.
fn indices(layout: Layout, size: usize, seed: u64) -> Tensor {
    let values: Vec<f64> =
        numbers(layout.numel(), seed).iter().map(|v| ((v + 4.0) * 1000.0).floor() % size.max(1) as f64).collect();
    Tensor::with_layout(DType::I64, layout, &values)
}

/// The coordinates of a position.
fn unravel(mut at: usize, dims: &[usize]) -> Vec<usize> {
    let mut out = vec![0; dims.len()];
    for d in (0..dims.len()).rev() {
        out[d] = at % dims[d];
        at /= dims[d];
    }
    out
}

fn ravel(index: &[usize], dims: &[usize]) -> usize {
    index.iter().zip(dims).fold(0, |at, (i, d)| at * d + i)
}

/// Where position `at` of the shape `dims` goes in the shape `to` with coordinate `dim` replaced.
fn target(at: usize, dims: &[usize], dim: usize, index: f64, to: &[usize]) -> usize {
    let mut coordinates = unravel(at, dims);
    if let Some(c) = coordinates.get_mut(dim) {
        *c = index as usize;
    }
    ravel(&coordinates, to)
}

/// Values that every dtype adds without rounding or overflow.
fn small(n: usize, seed: u64) -> Vec<f64> {
    numbers(n, seed).iter().map(|v| (v.abs() / 2.0).floor()).collect()
}

/// Shapes and dimensions with different numbers of outer positions and columns.
const GRIDS: &[(&[usize], usize)] = &[
    (&[], 0),
    (&[6], 0),
    (&[5, 3], 0),
    (&[5, 3], 1),
    (&[4, 3, 5], 1),
    (&[2, 3, 4, 2], 1),
    (&[2, 0, 3], 0),
    (&[20, 15], 0),
    (&[3, 1, 2], 1),
];

#[test]
fn index_select_and_index_add() {
    for dtype in DType::ALL {
        for &(dims, dim) in GRIDS {
            let size = dims.get(dim).map_or(1, |&d| d);
            for count in [0, 1, size, 2 * size + 1] {
                if dims.is_empty() && count != 1 {
                    continue;
                }
                let mut near_dims = dims.to_vec();
                near_dims.iter_mut().skip(dim).take(1).for_each(|d| *d = count);
                for layout in read_layouts(dims) {
                    let x = Tensor::with_layout(dtype, layout, &small(layout.numel(), 1));
                    let index_layouts = read_layouts(&[count]);
                    for (i, out) in layouts(&near_dims).into_iter().enumerate() {
                        let index = indices(index_layouts[i % index_layouts.len()], size, 2);
                        let mut out = Tensor::with_layout(dtype, out, &[]);
                        CpuBackend
                            .index_select(
                                IndexSelectArgs { x: x.view(), dim, index: index.view(), out: out.view_mut() }
                                    .checked()
                                    .unwrap(),
                            )
                            .unwrap();
                        let (from, at) = (x.values(), index.values());
                        let want: Vec<f64> = (0..out.layout.numel())
                            .map(|p| {
                                let i = unravel(p, &near_dims).get(dim).map_or(0, |&i| i);
                                from[target(p, &near_dims, dim, at[i], dims)]
                            })
                            .collect();
                        assert_eq!(out.values(), want, "{dtype} {layout:?} {dim} -> {:?}", out.layout);
                    }
                }
                if dtype == DType::Bool {
                    continue;
                }
                for layout in read_layouts(&near_dims) {
                    let x = Tensor::with_layout(dtype, layout, &small(layout.numel(), 3));
                    for out in layouts(dims) {
                        let index = indices(contiguous(&[count]), size, 4);
                        let mut out = Tensor::with_layout(dtype, out, &small(out.numel(), 5));
                        let mut want = out.values();
                        CpuBackend
                            .index_add(
                                IndexAddArgs { x: x.view(), dim, index: index.view(), out: out.view_mut() }
                                    .checked()
                                    .unwrap(),
                            )
                            .unwrap();
                        let at = index.values();
                        for (p, v) in x.values().into_iter().enumerate() {
                            let i = unravel(p, &near_dims).get(dim).map_or(0, |&i| i);
                            want[target(p, &near_dims, dim, at[i], dims)] += v;
                        }
                        assert_eq!(out.values(), want, "{dtype} {layout:?} {dim} += {:?}", out.layout);
                    }
                }
            }
        }
    }
}

/// The shapes of an index for a tensor: smaller than it, and longer along the dimension.
fn index_shapes(dims: &[usize], dim: usize) -> Vec<Vec<usize>> {
    let mut longer = dims.to_vec();
    longer.iter_mut().skip(dim).take(1).for_each(|d| *d = if *d > 0 { 2 * *d + 1 } else { 0 });
    let smaller = dims.iter().map(|d| d.div_ceil(2)).collect();
    vec![dims.to_vec(), longer, smaller]
}

#[test]
fn gather_and_scatter() {
    for dtype in DType::ALL {
        for &(dims, dim) in GRIDS {
            let size = dims.get(dim).map_or(1, |&d| d);
            for grid in index_shapes(dims, dim) {
                for layout in read_layouts(&grid) {
                    let index = indices(layout, size, 11);
                    let at = index.values();
                    for (i, out) in layouts(&grid).into_iter().enumerate() {
                        let from = read_layouts(dims);
                        let from = from[(i * 2 + 1) % from.len()];
                        let x = Tensor::with_layout(dtype, from, &small(from.numel(), 12));
                        let mut out = Tensor::with_layout(dtype, out, &[]);
                        CpuBackend
                            .gather(
                                GatherArgs { x: x.view(), dim, index: index.view(), out: out.view_mut() }
                                    .checked()
                                    .unwrap(),
                            )
                            .unwrap();
                        let from = x.values();
                        let want: Vec<f64> =
                            at.iter().enumerate().map(|(p, &i)| from[target(p, &grid, dim, i, dims)]).collect();
                        assert_eq!(out.values(), want, "{dtype} {layout:?} {dim}");
                    }
                    for to in layouts(dims) {
                        // The source is larger than the index, and read from another layout.
                        let larger: Vec<usize> = grid.iter().map(|d| d + 1).collect();
                        let x = Tensor::with_layout(dtype, contiguous(&larger), &small(larger.iter().product(), 13));
                        let number = Operand::Scalar(Scalar::Int(1));
                        let (values, ones) = (x.values(), vec![1.0; x.layout.numel()]);
                        for (mode, values, operand) in [
                            (ScatterMode::Set, &values, x.operand()),
                            (ScatterMode::Add, &values, x.operand()),
                            (ScatterMode::Mul, &values, x.operand()),
                            (ScatterMode::Min, &values, x.operand()),
                            (ScatterMode::Max, &values, x.operand()),
                            (ScatterMode::Set, &ones, number),
                            (ScatterMode::Min, &ones, number),
                            (ScatterMode::Add, &ones, number),
                        ] {
                            let mut out = Tensor::with_layout(dtype, to, &small(to.numel(), 14));
                            let mut want = out.values();
                            let args = ScatterArgs { mode, x: operand, dim, index: index.view(), out: out.view_mut() };
                            let result = args.checked().and_then(|args| CpuBackend.scatter(args));
                            let of_pairs = !matches!(mode, ScatterMode::Set | ScatterMode::Add);
                            if dtype == DType::Bool && mode != ScatterMode::Set || dtype.is_half() && of_pairs {
                                assert!(matches!(result.unwrap_err().kind(), ErrorKind::DType { .. }));
                                continue;
                            }
                            result.unwrap();
                            for (p, &i) in at.iter().enumerate() {
                                let v = values[ravel(&unravel(p, &grid), &larger)];
                                let to = &mut want[target(p, &grid, dim, i, dims)];
                                *to = match mode {
                                    ScatterMode::Set => v,
                                    ScatterMode::Add => *to + v,
                                    ScatterMode::Mul if dtype == DType::U8 => *to * v % 256.0,
                                    ScatterMode::Mul => *to * v,
                                    ScatterMode::Min => to.min(v),
                                    ScatterMode::Max => to.max(v),
                                };
                            }
                            assert_eq!(out.values(), want, "{dtype} {mode:?} {layout:?} {dim} {to:?}");
                        }
                    }
                }
            }
        }
    }
}

/// Large enough for several tasks, in all the ways that they are divided.
#[test]
fn large_moves_do_not_depend_on_the_number_of_threads() {
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let many = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    for (dims, dim, count) in
        [(&[50, 1000][..], 0, 300), (&[300, 16], 0, 9000), (&[100_000], 0, 70_000), (&[40, 30, 50], 1, 90)]
    {
        let mut near = dims.to_vec();
        near[dim] = count;
        let index = indices(contiguous(&[count]), dims[dim], 1);
        let full =
            Tensor::with_layout(DType::I64, contiguous(&near), &indices(contiguous(&near), dims[dim], 2).values());
        for dtype in [DType::F32, DType::BF16] {
            let x = Tensor::new(dtype, &near, &numbers(near.iter().product(), 3));
            let run = || {
                let mut out = Tensor::new(dtype, dims, &numbers(dims.iter().product(), 4));
                CpuBackend
                    .index_add(
                        IndexAddArgs { x: x.view(), dim, index: index.view(), out: out.view_mut() }.checked().unwrap(),
                    )
                    .unwrap();
                CpuBackend
                    .scatter(
                        ScatterArgs {
                            mode: ScatterMode::Add,
                            x: x.operand(),
                            dim,
                            index: full.view(),
                            out: out.view_mut(),
                        }
                        .checked()
                        .unwrap(),
                    )
                    .unwrap();
                let mut back = Tensor::empty(dtype, &near);
                CpuBackend
                    .gather(
                        GatherArgs { x: out.view(), dim, index: full.view(), out: back.view_mut() }.checked().unwrap(),
                    )
                    .unwrap();
                let mut rows = Tensor::empty(dtype, &near);
                CpuBackend
                    .index_select(
                        IndexSelectArgs { x: out.view(), dim, index: index.view(), out: rows.view_mut() }
                            .checked()
                            .unwrap(),
                    )
                    .unwrap();
                [out, back, rows].map(|t| t.bytes().to_vec())
            };
            assert!(alone.install(run) == many.install(run), "{dtype} {dims:?}");
        }
        // Against plain sums, in f64.
        let x = Tensor::new(DType::F64, &near, &numbers(near.iter().product(), 3));
        let mut out = Tensor::new(DType::F64, dims, &vec![0.0; dims.iter().product()]);
        many.install(|| {
            CpuBackend.scatter(
                ScatterArgs { mode: ScatterMode::Add, x: x.operand(), dim, index: full.view(), out: out.view_mut() }
                    .checked()
                    .unwrap(),
            )
        })
        .unwrap();
        let mut want = vec![0.0; dims.iter().product()];
        for (p, (v, i)) in x.values().into_iter().zip(full.values()).enumerate() {
            want[target(p, &near, dim, i, dims)] += v;
        }
        assert_close(&out.values(), &want, DType::F64, 0.0, "scatter_add");
    }
}

/// Many terms at one place, which half precision would lose (2048 + 1 is 2048): the sum is that of `f64`, rounded once.
#[test]
fn sums_of_half_precision_are_rounded_once() {
    for dtype in [DType::F16, DType::BF16] {
        let rounded = |values: Vec<f64>| Tensor::new(dtype, &[values.len()], &values).values();
        // One column, a few (their index differs or not), and more than are added up together.
        for (dims, dim, count) in [
            (&[3][..], 0, 10_000),
            (&[3, 5], 0, 8_000),
            (&[2, 1, 40], 1, 2_600),
            (&[1, 270], 0, 2_600),
            (&[2, 3], 1, 8_000),
        ] {
            let size = dims[dim];
            let mut near = dims.to_vec();
            near[dim] = count;
            let values: Vec<f64> = (0..near.iter().product()).map(|i| if i % 7 == 0 { 0.25 } else { 1.0 }).collect();
            for layout in [contiguous(&near), read_layouts(&near)[1]] {
                let x = Tensor::with_layout(dtype, layout, &values);
                let rows = indices(contiguous(&[count]), size, 1);
                let each = indices(contiguous(&near), size, 2);
                let (row_at, each_at) = (rows.values(), each.values());
                let start: Vec<f64> = numbers(dims.iter().product(), 3);
                let mut added = Tensor::new(dtype, dims, &start);
                let (mut by_rows, mut by_each) = (added.values(), added.values());
                for (p, v) in values.iter().enumerate() {
                    let row = unravel(p, &near)[dim];
                    by_rows[target(p, &near, dim, row_at[row], dims)] += v;
                    by_each[target(p, &near, dim, each_at[p], dims)] += v;
                }
                let mut scattered = Tensor::new(dtype, dims, &start);
                CpuBackend
                    .index_add(
                        IndexAddArgs { x: x.view(), dim, index: rows.view(), out: added.view_mut() }.checked().unwrap(),
                    )
                    .unwrap();
                CpuBackend
                    .scatter(
                        ScatterArgs {
                            mode: ScatterMode::Add,
                            x: x.operand(),
                            dim,
                            index: each.view(),
                            out: scattered.view_mut(),
                        }
                        .checked()
                        .unwrap(),
                    )
                    .unwrap();
                assert_eq!(added.values(), rounded(by_rows), "{dtype} {dims:?} index_add");
                assert_eq!(scattered.values(), rounded(by_each), "{dtype} {dims:?} scatter_add");
            }
        }
    }
}

#[test]
fn indices_out_of_range_are_errors_before_anything_is_written() {
    let x = Tensor::new(DType::F32, &[3, 2], &[1.0; 6]);
    for bad in [3.0, -1.0, 1e15] {
        let index = Tensor::new(DType::I64, &[3], &[0.0, bad, 1.0]);
        let strided = Tensor::with_layout(DType::I64, contiguous(&[3]).flip(0), &[0.0, bad, 1.0]);
        let grid = Tensor::new(DType::I64, &[3, 2], &[0.0, 1.0, 2.0, 0.0, bad, 0.0]);
        let mut out = Tensor::empty(DType::F32, &[3, 2]);
        let before = out.bytes().to_vec();
        let errors = [
            CpuBackend.index_select(
                IndexSelectArgs { x: x.view(), dim: 0, index: index.view(), out: out.view_mut() }.checked().unwrap(),
            ),
            CpuBackend.index_select(
                IndexSelectArgs { x: x.view(), dim: 0, index: strided.view(), out: out.view_mut() }.checked().unwrap(),
            ),
            CpuBackend.index_add(
                IndexAddArgs { x: x.view(), dim: 0, index: index.view(), out: out.view_mut() }.checked().unwrap(),
            ),
            CpuBackend
                .gather(GatherArgs { x: x.view(), dim: 0, index: grid.view(), out: out.view_mut() }.checked().unwrap()),
            CpuBackend.scatter(
                ScatterArgs { mode: ScatterMode::Set, x: x.operand(), dim: 0, index: grid.view(), out: out.view_mut() }
                    .checked()
                    .unwrap(),
            ),
            CpuBackend.scatter(
                ScatterArgs {
                    mode: ScatterMode::Add,
                    x: Operand::Scalar(1.0.into()),
                    dim: 0,
                    index: grid.view(),
                    out: out.view_mut(),
                }
                .checked()
                .unwrap(),
            ),
        ];
        for error in errors {
            let error = error.unwrap_err();
            let is = matches!(error.kind(), ErrorKind::IndexOutOfRange { index, size: 3, .. } if *index == bad as i64);
            assert!(is, "{error}");
        }
        assert_eq!(out.bytes(), before);
    }
}
