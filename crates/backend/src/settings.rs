//! What a program sets, for the whole process, about how devices compute.

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
    /// TensorFloat-32 where the device has it (NVIDIA GPUs from Ampere on): factors are rounded to 10 bits of mantissa,
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

/// What [`set_float32_matmul_precision`] set; always [`High`](Float32Precision::High) inside [`with_tf32`].
#[must_use]
pub fn float32_matmul_precision() -> Float32Precision {
    let allowed = ALLOWS_TF32.load(Ordering::Relaxed) || WITH_TF32.get();
    if allowed { Float32Precision::High } else { Float32Precision::Highest }
}

/// Runs `f`, in which products and convolutions of `f32` tensors may use TF32 whatever the program has set: for factors that
/// come from half precision. TF32 holds every `f16` and `bf16` exactly, so nothing is rounded, and the sums are the same
/// ones in `f32`.
#[doc(hidden)]
pub fn with_tf32<T>(f: impl FnOnce() -> T) -> T {
    /// Restores the setting, also when `f` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            WITH_TF32.set(self.0);
        }
    }
    let _restore = Restore(WITH_TF32.replace(true));
    f()
}

/// Whether only algorithms are used that give the same bits in each run
/// (<https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html>). Kiln's own kernels always
/// do, on every device; this is about the gradients of convolutions by cuDNN, whose fastest algorithms may not.
pub fn use_deterministic_algorithms(deterministic: bool) {
    DETERMINISTIC.store(deterministic, Ordering::Relaxed);
}

/// What [`use_deterministic_algorithms`] set; `false` at first.
#[must_use]
pub fn are_deterministic_algorithms_enabled() -> bool {
    DETERMINISTIC.load(Ordering::Relaxed)
}

/// Whether cuDNN times its algorithms the first time that it meets a convolution, instead of asking its heuristic: the
/// first step takes longer, later ones may be faster. For sizes that do not change
/// (<https://docs.pytorch.org/docs/stable/backends.html#torch.backends.cudnn.torch.backends.cudnn.benchmark>).
pub fn set_convolution_benchmark(benchmark: bool) {
    BENCHMARK.store(benchmark, Ordering::Relaxed);
}

/// What [`set_convolution_benchmark`] set; `false` at first.
#[must_use]
pub fn convolution_benchmark() -> bool {
    BENCHMARK.load(Ordering::Relaxed)
}
