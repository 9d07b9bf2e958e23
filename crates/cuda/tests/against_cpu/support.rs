//! Tensors of a test, and how the device is compared with the CPU.

use std::cell::Cell;

use kiln_backend::*;
use parking_lot::RwLock;

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
pub enum Lie {
    Dense,
    /// With the last two dimensions exchanged in memory.
    Turned,
    /// Behind an offset and with gaps.
    Sliced,
}

pub const LIES: [Lie; 3] = [Lie::Dense, Lie::Turned, Lie::Sliced];

pub fn layout(dims: &[usize], lie: Lie) -> (Layout, usize) {
    let shape = Shape::new(dims).unwrap();
    let (rank, n) = (dims.len(), shape.numel());
    match lie {
        Lie::Turned if rank >= 2 => {
            let mut turned = dims.to_vec();
            turned.swap(rank - 1, rank - 2);
            (Layout::contiguous(Shape::new(&turned).unwrap()).transpose(rank - 1, rank - 2), n)
        }
        Lie::Sliced if rank >= 1 => {
            let mut wide = dims.to_vec();
            wide[rank - 1] = 2 * wide[rank - 1] + 1;
            let whole = Layout::contiguous(Shape::new(&wide).unwrap());
            let len = whole.numel();
            (whole.slice(rank - 1, 1, wide[rank - 1], 2), len)
        }
        _ => (Layout::contiguous(shape), n),
    }
}

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
    match REFERENCE.get() {
        Some(reference) if dtype.is_float() => {
            // The numbers that the device gets, which may not be those that were asked for.
            let values = rounded(dtype, values);
            HostVec::F64(values.iter().map(|v| if reference == Reference::Magnitudes { v.abs() } else { *v }).collect())
        }
        _ => made,
    }
}

fn rounded(dtype: DType, values: &[f64]) -> Vec<f64> {
    dispatch_dtype!(dtype, T => values.iter().map(|&v| T::from_scalar(Scalar::Float(v)).to_scalar().to_f64()).collect())
}

/// What a case computes when [`sums`] runs it on the CPU: everything of floats is `f64` then, holding the numbers that the
/// device gets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reference {
    Exact,
    /// From the absolute values: of a sum of products `Σ x·w` that is `Σ |x·w|`.
    Magnitudes,
}

thread_local! {
    static REFERENCE: Cell<Option<Reference>> = const { Cell::new(None) };
}

/// How the library may compute sums of products.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// Each product once, added in any order, also in parts that are added afterwards (split-k).
    Direct,
    /// As `Direct`, or by Winograd's or Fourier's transforms, with so many taps of a filter.
    Convolution { taps: usize },
}

/// Runs `case`, whose results are sums of products, on the device, and compares it with the sums in `f64`. `terms` says of how
/// many products each result is (the last one is that of all further results).
///
/// How far apart they may be is what is known of the errors of such sums. With u the unit roundoff of the type that is summed
/// in (2⁻²⁴ for `f32`; 2⁻²³ where tensor cores sum, which truncate: Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior
/// of NVIDIA tensor cores", 2021):
/// - a sum of n terms, in any order, is within γ = nu / (1 − nu) times Σ|x·w| (Higham, "Accuracy and Stability of Numerical
///   Algorithms", section 3.1);
/// - factors that are rounded to TensorFloat-32, with 11 bits, add 2 · 2⁻¹¹ of that;
/// - the result is rounded once to its own type;
/// - Winograd's F(4×4, 3×3) in `f32` has up to 20 times the errors of direct sums (Lavin and Gray, "Fast Algorithms for
///   Convolutional Neural Networks", 2016, measure 7 to 18), which grow as √n, relative to the largest Σ|x·w| of its tile;
/// - a Fourier transform of m points has errors of 3 log₂ m · u relative to the norms of its operands (Higham, theorem 24.2):
///   with tiles of 32×32 points these are √(1024 / taps) of those of the filter's own pixels.
pub fn sums(name: &str, terms: &[usize], method: Method, case: impl Fn(&dyn Backend) -> Result<Vec<Tensor>>) {
    let _others_too = RECORD.read();
    compare_sums(name, terms, method, false, case);
}

/// [`sums`] for tests that hold the lock themselves. `tf32` says that factors of `f32` may be rounded.
pub fn compare_sums(
    name: &str,
    terms: &[usize],
    method: Method,
    tf32: bool,
    case: impl Fn(&dyn Backend) -> Result<Vec<Tensor>>,
) {
    let Some(device) = device() else { return };
    let cpu = kiln_cpu::backend();
    let run = |on: &dyn Backend, reference: Option<Reference>| -> Vec<(DType, Vec<f64>)> {
        REFERENCE.set(reference);
        let out = case(on);
        REFERENCE.set(None);
        let out = out.unwrap_or_else(|error| panic!("{name} on {on:?}: {error}"));
        out.iter().map(|tensor| (tensor.buffer.dtype(), read(on, tensor))).collect()
    };
    let got = run(device, None);
    let [exact, magnitudes] = [Reference::Exact, Reference::Magnitudes].map(|reference| run(cpu, Some(reference)));
    assert_eq!((got.len(), exact.len()), (magnitudes.len(), magnitudes.len()), "{name}");
    for (k, (dtype, got)) in got.iter().enumerate() {
        let (exact, magnitudes) = (&exact[k].1, &magnitudes[k].1);
        assert_eq!((got.len(), got.len()), (exact.len(), magnitudes.len()), "{name}: result {k}");
        let n = terms.get(k).or(terms.last()).map_or(1.0, |&n| n as f64 + 2.0);
        let bound = ErrorBound::new(*dtype, n, method, tf32);
        let largest = magnitudes.iter().fold(0.0, |most: f64, v| most.max(*v));
        for (i, (got, want)) in got.iter().zip(exact).enumerate() {
            let most = bound.of(magnitudes[i], largest, *want);
            assert!(
                (got - want).abs() <= most,
                "{name}: element {i} of result {k} ({dtype}) is {got}, not {want}: {:e} apart, of {most:e}",
                (got - want).abs()
            );
        }
    }
}

/// The parts of the bound that [`sums`] explains.
struct ErrorBound {
    /// Times Σ|x·w| of the element.
    of_sum: f64,
    /// Times the largest Σ|x·w|.
    of_transform: f64,
    /// Times the result.
    of_rounding: f64,
    /// What the type cannot resolve near 0.
    smallest: f64,
}

impl ErrorBound {
    fn new(dtype: DType, n: f64, method: Method, tf32: bool) -> ErrorBound {
        let power = |exponent: i32| 2f64.powi(exponent);
        // Summed in, rounded to, the smallest number.
        let (mut sum, result, smallest) = match dtype {
            DType::F64 => (power(-53), power(-53), 0.0),
            DType::F16 => (power(-23), power(-11), power(-25)),
            DType::BF16 => (power(-23), power(-8), 0.0),
            _ => (power(-24), power(-24), 0.0),
        };
        let tf32 = tf32 && dtype == DType::F32;
        if tf32 {
            sum = power(-23);
        }
        let gamma = n * sum / (1.0 - n * sum);
        // In double precision the reference is no more exact than the device.
        let both = if dtype == DType::F64 { 2.0 } else { 1.0 };
        let of_transform = match method {
            Method::Convolution { taps } if dtype == DType::F32 => {
                let fourier = 3.0 * 10.0 * (1024.0 / taps as f64).sqrt();
                sum * fourier.max(20.0 * n.sqrt()) + if tf32 { 20.0 * power(-11) / n.sqrt() } else { 0.0 }
            }
            _ => 0.0,
        };
        let factors = if tf32 { 2.0 * power(-11) } else { 0.0 };
        ErrorBound { of_sum: both * gamma + factors, of_transform, of_rounding: both * result, smallest }
    }

    fn of(&self, magnitude: f64, largest: f64, want: f64) -> f64 {
        let error = self.of_sum * magnitude + self.of_transform * largest;
        // What is rounded is the sum with its error.
        error + self.of_rounding * (want.abs() + error) + self.smallest
    }
}

pub fn tensor(on: &dyn Backend, dtype: DType, dims: &[usize], lie: Lie, salt: u64) -> Tensor {
    let (layout, len) = layout(dims, lie);
    let mut values = numbers(len, salt);
    if dtype == DType::U8 {
        values.iter_mut().for_each(|v| *v = (*v * 4.0).abs());
    }
    Tensor { buffer: on.adopt(host(dtype, &values)).unwrap(), layout }
}

/// Zeros to write to, lying like the inputs.
pub fn target(on: &dyn Backend, dtype: DType, dims: &[usize], lie: Lie) -> Tensor {
    let (layout, len) = layout(dims, lie);
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
    let (got, want) = (run(device), run(kiln_cpu::backend()));
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
    let cpu = kiln_cpu::backend();
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

/// The bounds hold for sums as they are, and for no sum that lacks a term.
#[test]
fn bounds_are_no_wider_than_a_term() {
    for (dtype, n) in [(DType::F32, 300.0), (DType::F64, 300.0), (DType::F16, 300.0), (DType::BF16, 40.0)] {
        let bound = ErrorBound::new(dtype, n, Method::Direct, false);
        // Factors of about 1.
        assert!(bound.of(n, n, n.sqrt()) < 0.5, "{dtype}");
    }
    let bound = ErrorBound::new(DType::F32, 160.0, Method::Convolution { taps: 9 }, false);
    assert!(bound.of(160.0, 160.0, 12.0) < 0.01);
    // A sum of numbers that are all rounded down by half a unit is still inside.
    let direct = ErrorBound::new(DType::F32, 100.0, Method::Direct, false);
    assert!(direct.of(100.0, 100.0, 100.0) > 50.0 * 2f64.powi(-23));
}
