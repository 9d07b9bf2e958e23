//! Process-wide settings for how devices compute: `f32` precision, determinism, cuDNN benchmarking.

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, Ordering},
};

/// The arithmetic inside products and convolutions of `f32` tensors
/// (<https://docs.pytorch.org/docs/stable/generated/torch.set_float32_matmul_precision.html>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Float32Precision {
    /// IEEE `f32` throughout: the default.
    #[default]
    Highest,
    /// TensorFloat-32 where the device has it (NVIDIA GPUs from Ampere on): factors are rounded to 10 mantissa bits,
    /// sums are kept in `f32`. Several times faster there; elsewhere the same as `Highest`.
    High,
}

static ALLOWS_TF32: AtomicBool = AtomicBool::new(false);
static DETERMINISTIC: AtomicBool = AtomicBool::new(false);
static BENCHMARK: AtomicBool = AtomicBool::new(false);

thread_local! {
    static WITH_TF32: Cell<bool> = const { Cell::new(false) };
}

/// Sets the precision of products and convolutions of `f32` tensors, for the whole process and from the next
/// operation on. TF32 is never used unless it is asked for here. (PyTorch has a second switch, by which its convolutions
/// use TF32 unless told not to; Kiln has this one for both.)
pub fn set_float32_matmul_precision(precision: Float32Precision) {
    ALLOWS_TF32.store(precision == Float32Precision::High, Ordering::Relaxed);
}

/// The precision that [`set_float32_matmul_precision`] set; always [`High`](Float32Precision::High) inside
/// [`with_tf32`].
#[must_use]
pub fn float32_matmul_precision() -> Float32Precision {
    let allowed = ALLOWS_TF32.load(Ordering::Relaxed) || WITH_TF32.get();
    if allowed { Float32Precision::High } else { Float32Precision::Highest }
}

/// Runs `f` with TF32 allowed for products and convolutions of `f32` tensors, whatever the program has set. For factors
/// converted from half precision: TF32 represents every `f16` and `bf16` exactly, so nothing is rounded, and sums stay
/// in `f32`.
#[doc(hidden)]
pub fn with_tf32<T>(f: impl FnOnce() -> T) -> T {
    /// Restores the setting, even if `f` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            WITH_TF32.set(self.0);
        }
    }
    let _restore = Restore(WITH_TF32.replace(true));
    f()
}

/// Sets whether to use only algorithms that give the same bits in every run
/// (<https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html>). Kiln's own kernels
/// always do, on every device; the setting affects cuDNN's convolution gradients, whose fastest algorithms may not, and attention,
/// whose gradient cuDNN adds in any order: it is composed of products and softmax.
pub fn use_deterministic_algorithms(deterministic: bool) {
    DETERMINISTIC.store(deterministic, Ordering::Relaxed);
}

/// The value that [`use_deterministic_algorithms`] set; initially `false`.
#[must_use]
pub fn are_deterministic_algorithms_enabled() -> bool {
    DETERMINISTIC.load(Ordering::Relaxed)
}

/// Sets whether cuDNN times its algorithms when it first meets a convolution, instead of using its heuristic: the first
/// step takes longer, later ones may be faster. Also timed are fusions that cuDNN compiles at run time (the input gradient
/// with the gradient of the ReLU below it), which takes seconds for each shape, and channels-last images of a few channels
/// padded to what tensor cores read at once. Meant for sizes that do not change
/// (<https://docs.pytorch.org/docs/stable/backends.html#torch.backends.cudnn.torch.backends.cudnn.benchmark>).
pub fn set_convolution_benchmark(benchmark: bool) {
    BENCHMARK.store(benchmark, Ordering::Relaxed);
}

/// The value that [`set_convolution_benchmark`] set; initially `false`.
#[must_use]
pub fn convolution_benchmark() -> bool {
    BENCHMARK.load(Ordering::Relaxed)
}
