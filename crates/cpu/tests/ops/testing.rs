//! What the tests share: small tensors of any dtype in any layout, with `f64` values.

use kiln_backend::{
    Buffer, DType, Element, Layout, MAX_RANK, MemoryBackend, Operand, RandomState, Shape, View, ViewMut, dtype_table,
    half::{bf16, f16},
};
use kiln_cpu::CpuBackend;

/// A tensor that owns its buffer.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) buffer: Box<dyn Buffer>,
    pub(crate) layout: Layout,
}

/// Calls a function for the Rust type of a dtype.
macro_rules! for_type {
    (($dtype:expr, $function:ident $arguments:tt) $($kind:ident($variant:ident, $type:ident, $($rest:tt)*))*) => {
        match $dtype { $(DType::$variant => $function::<$type> $arguments,)* }
    };
}

/// Fills a buffer with 77, and the elements of a layout with values.
fn write<T: Element>(bytes: &mut [u8], layout: &Layout, values: &[f64]) {
    let size = size_of::<T>();
    let stored = |value: f64| T::from_scalar(value.into());
    let unused = stored(77.0);
    bytes.chunks_exact_mut(size).for_each(|element| element.copy_from_slice(bytemuck::bytes_of(&unused)));
    for (at, &value) in positions(layout).into_iter().zip(values) {
        bytes[at * size..][..size].copy_from_slice(bytemuck::bytes_of(&stored(value)));
    }
}

/// The elements of a layout in row-major order.
fn read<T: Element>(bytes: &[u8], layout: &Layout) -> Vec<f64> {
    let size = size_of::<T>();
    let number =
        |at: usize| bytemuck::checked::pod_read_unaligned::<T>(&bytes[at * size..][..size]).to_scalar().to_f64();
    positions(layout).into_iter().map(number).collect()
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
        let mut buffer = CpuBackend.alloc(dtype, len).unwrap();
        let bytes = buffer.host_bytes_mut().unwrap();
        dtype_table!(for_type, dtype, write(bytes, &layout, values));
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
        View { buffer: &*self.buffer, layout: &self.layout }
    }

    pub(crate) fn operand(&self) -> Operand<'_> {
        Operand::Tensor(self.view())
    }

    pub(crate) fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { buffer: &mut *self.buffer, layout: &self.layout }
    }

    /// The elements in row-major order.
    pub(crate) fn values(&self) -> Vec<f64> {
        dtype_table!(for_type, self.buffer.dtype(), read(self.bytes(), &self.layout))
    }

    /// The whole buffer, to check that nothing else was written and to compare bits.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.host_bytes().unwrap()
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

/// The words of the first counter blocks of a generator's state, by the definition of Philox4x32-10 (Salmon et al., 2011).
pub(crate) fn philox(state: RandomState, blocks: usize) -> Vec<u32> {
    let halves = |product: u64| ((product >> 32) as u32, product as u32);
    let block = |block: usize| {
        let position = state.offset.wrapping_add(block as u64);
        let mut counter = [position as u32, (position >> 32) as u32, 0, 0];
        let mut key = [state.seed as u32, (state.seed >> 32) as u32];
        for _ in 0..10 {
            let (high0, low0) = halves(0xD251_1F53 * u64::from(counter[0]));
            let (high1, low1) = halves(0xCD9E_8D57 * u64::from(counter[2]));
            counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        counter
    };
    (0..blocks).flat_map(block).collect()
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
