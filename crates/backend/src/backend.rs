//! The [`Backend`] trait: the primitives that a device implements.

use crate::{
    capture::CaptureBackend,
    communicator::CommunicatorBackend,
    ops::{
        ArgReduceBackend, AttentionBackend, BatchNormBackend, BinaryBackend, ClassLossBackend, Conv2dBackend,
        Conv3dBackend, CopyBackend, DropoutBackend, FillBackend, GradScalerBackend, IndexBackend, LayerNormBackend,
        LinearBackend, MatmulBackend, MemoryBackend, OptimBackend, PointwiseLossBackend, Pool2dBackend, RandomBackend,
        ReduceBackend, ReluBiasGradBackend, RnnCellBackend, ScanBackend, SoftmaxBackend, SortBackend, TrilTriuBackend,
        UnaryBackend, WhereCondBackend,
    },
};

/// The primitives of one device. Object-safe: tensors call them through `&'static dyn Backend`.
///
/// # Contract
/// The caller (`kiln-tensor`) has checked shapes, dtypes and devices, has broadcast operands to the output's
/// shape by strides, and hands outputs that overlap no input. A backend checks that layouts stay inside
/// their buffers before it touches memory, and values that only it sees (indices, labels); it returns a
/// typed error for both and never panics. Work may be asynchronous; [`download`](MemoryBackend::download) and
/// [`synchronize`](MemoryBackend::synchronize) wait.
///
/// Unless a method says otherwise, all operands have the output's shape, any strides, and one dtype.
/// Half precision is computed in `f32` and rounded once at the end of a primitive. Zero elements are no
/// error and no work.
pub trait Backend:
    MemoryBackend
    + FillBackend
    + RandomBackend
    + CopyBackend
    + UnaryBackend
    + BinaryBackend
    + WhereCondBackend
    + DropoutBackend
    + TrilTriuBackend
    + ReduceBackend
    + ArgReduceBackend
    + ScanBackend
    + SortBackend
    + SoftmaxBackend
    + IndexBackend
    + MatmulBackend
    + LinearBackend
    + AttentionBackend
    + ReluBiasGradBackend
    + Conv2dBackend
    + Conv3dBackend
    + Pool2dBackend
    + BatchNormBackend
    + LayerNormBackend
    + RnnCellBackend
    + ClassLossBackend
    + PointwiseLossBackend
    + OptimBackend
    + GradScalerBackend
    + CaptureBackend
    + CommunicatorBackend
{
}
