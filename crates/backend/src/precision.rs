//! How exactly devices multiply matrices of `f32`.

use std::sync::atomic::{AtomicBool, Ordering};

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

/// Sets the precision of products and convolutions of `f32` tensors, for the whole process and from the next
/// operation on. TF32 is never used unless it is asked for here. (PyTorch has a second switch, by which its convolutions
/// use TF32 unless told not to; Kiln has this one for both.)
pub fn set_float32_matmul_precision(precision: Float32Precision) {
    ALLOWS_TF32.store(precision == Float32Precision::High, Ordering::Relaxed);
}

/// What [`set_float32_matmul_precision`] set.
#[must_use]
pub fn float32_matmul_precision() -> Float32Precision {
    if ALLOWS_TF32.load(Ordering::Relaxed) { Float32Precision::High } else { Float32Precision::Highest }
}
