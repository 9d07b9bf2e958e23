//! Helpers for the modules' tests: small tensors of any dtype in any layout, with `f64` values.

use kiln_backend::{Buffer, DType, Layout, MAX_RANK, Operand, Result, Shape, View, ViewMut};

use crate::{
    memory::buffer::CpuBuffer,
    numeric::{dispatch::for_all, stored::Stored},
};

/// A tensor that owns its buffer.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) buffer: CpuBuffer,
    pub(crate) layout: Layout,
}

pub(crate) fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims).unwrap()
}

/// The positions in the buffer of a layout's elements, in row-major order.
pub(crate) fn positions(layout: &Layout) -> Vec<usize> {
    if layout.numel() == 0 {
        return Vec::new();
    }
    let mut out = vec![layout.offset() as isize];
    for (&extent, &stride) in layout.dims().iter().zip(layout.strides()) {
        out = out.iter().flat_map(|&o| (0..extent).map(move |i| o + i as isize * stride)).collect();
    }
    out.iter().map(|&o| o as usize).collect()
}

impl Tensor {
    /// A tensor in a given layout; elements of the buffer that it does not use are 77. If several indices share an
    /// element, it holds the last of their values.
    pub(crate) fn with_layout(dtype: DType, layout: Layout, values: &[f64]) -> Tensor {
        let len = layout.span().unwrap().end + 2;
        let mut buffer = CpuBuffer::new(dtype, len).unwrap();
        let written: Result<()> = for_all!(dtype, T => {
            let elements: &mut [T] = bytemuck::cast_slice_mut(buffer.bytes_mut());
            elements.fill(T::from_scalar(77.0.into()));
            positions(&layout).into_iter().zip(values).for_each(|(at, &v)| elements[at] = T::from_scalar(v.into()));
            Ok(())
        });
        written.unwrap();
        Tensor { buffer, layout }
    }

    /// A contiguous tensor.
    pub(crate) fn new(dtype: DType, dims: &[usize], values: &[f64]) -> Tensor {
        assert_eq!(values.len(), shape(dims).numel());
        Tensor::with_layout(dtype, Layout::contiguous(shape(dims)), values)
    }

    /// A contiguous tensor of 77s, to write to.
    pub(crate) fn empty(dtype: DType, dims: &[usize]) -> Tensor {
        Tensor::new(dtype, dims, &vec![77.0; shape(dims).numel()])
    }

    pub(crate) fn view(&self) -> View<'_> {
        View { buffer: &self.buffer, layout: &self.layout }
    }

    pub(crate) fn operand(&self) -> Operand<'_> {
        Operand::Tensor(self.view())
    }

    pub(crate) fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { buffer: &mut self.buffer, layout: &self.layout }
    }

    /// The elements in row-major order.
    pub(crate) fn values(&self) -> Vec<f64> {
        for_all!(self.buffer.dtype(), T => {
            let elements: &[T] = bytemuck::cast_slice(self.buffer.bytes());
            positions(&self.layout).into_iter().map(|at| elements[at].load() as f64).collect()
        })
    }

    /// The whole buffer, to check that nothing else was written and to compare bits.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }
}

/// Layouts of this shape for writing: contiguous, with dimensions in reversed memory order, and cut out of a larger
/// tensor with an offset.
pub(crate) fn layouts(dims: &[usize]) -> Vec<Layout> {
    let rank = dims.len();
    let mut out = vec![Layout::contiguous(shape(dims))];
    if rank == 0 {
        out.push(Layout::strided(shape(&[]), &[], 3).unwrap());
        return out;
    }
    let reversed: Vec<usize> = dims.iter().rev().copied().collect();
    let order: [usize; MAX_RANK] = std::array::from_fn(|i| rank.saturating_sub(i + 1));
    out.push(Layout::contiguous(shape(&reversed)).permute(&order[..rank]));
    let wide: Vec<usize> = dims.iter().map(|d| 2 * d + 1).collect();
    let mut cut = Layout::contiguous(shape(&wide));
    for (dim, &extent) in dims.iter().enumerate() {
        let step = 1 + dim % 2;
        cut = cut.slice(dim, 1, 1 + extent * step, step);
    }
    out.push(cut);
    out
}

/// Layouts of this shape for reading: those for writing, and reversed and repeated ones. A test must compare with
/// [`Tensor::values`], because repeated elements are equal.
pub(crate) fn read_layouts(dims: &[usize]) -> Vec<Layout> {
    let mut out = layouts(dims);
    let base = Layout::contiguous(shape(dims));
    for dim in 0..dims.len() {
        out.push(base.flip(dim));
        let mut one = dims.to_vec();
        one[dim] = 1;
        out.push(Layout::contiguous(shape(&one)).expand("test", &shape(dims)).unwrap());
    }
    out.push(Layout::contiguous(shape(&vec![1; dims.len()])).expand("test", &shape(dims)).unwrap());
    out
}

/// Shapes that the loops treat differently: scalars, empty, short rows, long rows, more than one tile.
pub(crate) const SHAPES: &[&[usize]] =
    &[&[], &[0], &[1], &[5], &[3, 0, 2], &[7, 3], &[2, 3, 5], &[3, 700], &[40, 1, 33]];

/// Reproducible values in about -4..4 with exact small halves among them (so that ties occur).
pub(crate) fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    (0..n).map(|_| if next() < 0.25 { (next() * 8.0).round() / 2.0 - 2.0 } else { next() * 8.0 - 4.0 }).collect()
}

/// The relative precision of a dtype.
pub(crate) fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::EPSILON),
        DType::F64 => f64::EPSILON,
        DType::F16 => 2f64.powi(-10),
        DType::BF16 => 2f64.powi(-7),
        _ => 0.0,
    }
}

/// Asserts that values are equal up to `ulps` of the dtype's precision, relative to their size (and to 0.1 near zero).
/// NaN equals NaN, and a value too large for the dtype equals infinity.
#[track_caller]
pub(crate) fn assert_close(got: &[f64], want: &[f64], dtype: DType, ulps: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let bound = ulps * epsilon(dtype) * w.abs().max(0.1);
        let overflow = dtype == DType::F16 && w.abs() > 65500.0 || dtype != DType::F64 && w.abs() > 3.3e38;
        let ok = g == w
            || (overflow && g.is_infinite() && g.signum() == w.signum())
            || (g.is_nan() && w.is_nan())
            || (g - w).abs() <= bound;
        assert!(ok, "{what}, {dtype}, element {i}: got {g}, expected {w}");
    }
}
