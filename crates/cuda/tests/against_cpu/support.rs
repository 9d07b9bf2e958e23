//! Test tensors, and the comparison of the device with the CPU.

use kiln_backend::*;
use parking_lot::RwLock;

use crate::reference;

/// A tensor of a test: values in a buffer, and a layout over it.
pub struct Tensor {
    pub buffer: Box<dyn Buffer>,
    pub layout: Layout,
}

impl Tensor {
    pub fn view(&self) -> View<'_> {
        View { buffer: &*self.buffer, layout: &self.layout }
    }

    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { buffer: &mut *self.buffer, layout: &self.layout }
    }
}

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryLayout {
    Dense,
    /// With the last two dimensions exchanged in memory.
    Turned,
    /// Behind an offset and with gaps.
    Sliced,
}

pub const MEMORY_LAYOUTS: [MemoryLayout; 3] = [MemoryLayout::Dense, MemoryLayout::Turned, MemoryLayout::Sliced];

pub fn layout(dims: &[usize], memory: MemoryLayout) -> (Layout, usize) {
    let shape = Shape::new(dims).unwrap();
    let (rank, n) = (dims.len(), shape.numel());
    match memory {
        MemoryLayout::Turned if rank >= 2 => {
            let mut turned = dims.to_vec();
            turned.swap(rank - 1, rank - 2);
            (Layout::contiguous(Shape::new(&turned).unwrap()).transpose(rank - 1, rank - 2), n)
        }
        MemoryLayout::Sliced if rank >= 1 => {
            let mut wide = dims.to_vec();
            wide[rank - 1] = 2 * wide[rank - 1] + 1;
            let whole = Layout::contiguous(Shape::new(&wide).unwrap());
            let len = whole.numel();
            (whole.slice(rank - 1, 1, wide[rank - 1], 2), len)
        }
        _ => (Layout::contiguous(shape), n),
    }
}

/// No number of [`numbers`] is larger.
pub const MAX_NUMBER: f64 = 2.0;

/// Numbers that are not all alike, the same on every device.
pub fn numbers(n: usize, salt: u64) -> Vec<f64> {
    (0..n as u64)
        .map(|i| {
            let mixed = (i + salt * 1000 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            (mixed % 2001) as f64 / 500.0 - 2.0
        })
        .collect()
}

pub fn host(dtype: DType, values: &[f64]) -> HostVec {
    let made = dispatch_dtype!(dtype, T => {
        T::into_host(values.iter().map(|&v| T::from_scalar(if dtype == DType::Bool { Scalar::Bool(v > 0.0) } else { Scalar::Float(v) })).collect())
    });
    reference::for_reference(dtype, &made).unwrap_or(made)
}

pub fn tensor(on: &dyn Backend, dtype: DType, dims: &[usize], memory: MemoryLayout, salt: u64) -> Tensor {
    let (layout, len) = layout(dims, memory);
    let mut values = numbers(len, salt);
    if dtype == DType::U8 {
        values.iter_mut().for_each(|v| *v = (*v * 4.0).abs());
    }
    Tensor { buffer: on.adopt(host(dtype, &values)).unwrap(), layout }
}

/// Zeros to write to, lying like the inputs.
pub fn target(on: &dyn Backend, dtype: DType, dims: &[usize], memory: MemoryLayout) -> Tensor {
    let (layout, len) = layout(dims, memory);
    Tensor { buffer: on.adopt(host(dtype, &vec![0.0; len])).unwrap(), layout }
}

pub fn index(on: &dyn Backend, dims: &[usize], size: usize) -> Tensor {
    let n: usize = dims.iter().product();
    let values = (0..n).map(|i| (i * 7 + i / 3) as i64 % size as i64).collect();
    Tensor { buffer: on.adopt(HostVec::I64(values)).unwrap(), layout: Layout::contiguous(Shape::new(dims).unwrap()) }
}

/// The bits of all of a buffer, element by element.
pub fn bits(on: &dyn Backend, tensor: &Tensor) -> Vec<Vec<u8>> {
    let (size, len) = (tensor.buffer.dtype().size(), tensor.buffer.len());
    let mut bytes = vec![0; size * len];
    on.download(&*tensor.buffer, 0, &mut bytes).unwrap();
    bytes.chunks_exact(size).map(<[u8]>::to_vec).collect()
}

/// All of a buffer, as numbers.
pub fn read(on: &dyn Backend, tensor: &Tensor) -> Vec<f64> {
    let dtype = tensor.buffer.dtype();
    dispatch_dtype!(dtype, T => {
        T::read_vec(tensor.buffer.len(), |bytes| on.download(&*tensor.buffer, 0, bytes))
            .unwrap()
            .into_iter()
            .map(|v| v.to_scalar().to_f64())
            .collect()
    })
}

pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 2e-5,
        DType::F16 => 2e-3,
        DType::BF16 => 2e-2,
        _ => 0.0,
    }
}

/// What kernels find out is reported to whoever waits for the device next, so the test that provokes it has to be alone.
pub static RECORD: RwLock<()> = RwLock::new(());

/// The device, if there is one.
pub fn device() -> Option<&'static kiln_cuda::CudaBackend> {
    let device = kiln_cuda::backend(0);
    if let Err(error) = &device {
        assert!(std::env::var_os("KILN_REQUIRE_DEVICE").is_none(), "a device is required: {error}");
    }
    device.ok()
}

/// Runs `case` on the device and on the CPU and compares everything that it returns.
pub fn same(name: &str, case: impl Fn(&dyn Backend) -> Result<Vec<Tensor>>) {
    let _others_too = RECORD.read();
    compare(name, 1.0, case);
}

/// [`same`] where elements are moved, or rounded once: every bit is that of the CPU, those of zeros and NaNs too.
pub fn same_bits(name: &str, case: impl Fn(&dyn Backend) -> Result<Vec<Tensor>>) {
    let _others_too = RECORD.read();
    let Some(device) = device() else { return };
    let run = |on: &dyn Backend| -> Vec<(DType, Vec<Vec<u8>>)> {
        let out = case(on).unwrap_or_else(|error| panic!("{name} on {on:?}: {error}"));
        out.iter().map(|tensor| (tensor.buffer.dtype(), bits(on, tensor))).collect()
    };
    let (got, want) = (run(device), run(kiln_cpu::backend().unwrap()));
    assert_eq!(got.len(), want.len(), "{name}");
    for (k, ((dtype, got), (expected, want))) in got.iter().zip(&want).enumerate() {
        assert_eq!((dtype, got.len()), (expected, want.len()), "{name}: result {k}");
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!(g == w, "{name}: element {i} of result {k} ({dtype}) has the bytes {g:02x?}, not {w:02x?}");
        }
    }
}

/// [`same`] for tests that hold the lock themselves, with `slack` times the tolerance.
pub fn compare(name: &str, slack: f64, case: impl Fn(&dyn Backend) -> Result<Vec<Tensor>>) {
    let Some(device) = device() else { return };
    let cpu = kiln_cpu::backend().unwrap();
    let run = |on: &dyn Backend| -> Vec<(DType, Vec<f64>)> {
        let out = case(on).unwrap_or_else(|error| panic!("{name} on {on:?}: {error}"));
        out.iter().map(|tensor| (tensor.buffer.dtype(), read(on, tensor))).collect()
    };
    let (got, want) = (run(device), run(cpu));
    let kinds = |all: &[(DType, Vec<f64>)]| all.iter().map(|(dtype, of)| (*dtype, of.len())).collect::<Vec<_>>();
    assert_eq!(kinds(&got), kinds(&want), "{name}");
    for (k, ((dtype, got), (_, want))) in got.iter().zip(&want).enumerate() {
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let close = (g - w).abs() <= slack * tolerance(*dtype) * w.abs().max(1.0);
            assert!(
                g == w || (g.is_nan() && w.is_nan()) || close,
                "{name}: element {i} of result {k} ({dtype}) is {g}, not {w}"
            );
        }
    }
}

pub const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];
