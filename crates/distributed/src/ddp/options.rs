//! Options of data parallel training.

/// Options of [`DistributedDataParallel`](super::DistributedDataParallel).
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct DdpOptions {
    pub(super) find_unused: bool,
    pub(super) broadcast_buffers: bool,
    pub(super) first_bucket_bytes: usize,
    pub(super) bucket_bytes: usize,
}

impl Default for DdpOptions {
    fn default() -> Self {
        let (first_bucket_bytes, bucket_bytes) = (1 << 20, 25 << 20);
        DdpOptions { find_unused: false, broadcast_buffers: true, first_bucket_bytes, bucket_bytes }
    }
}

impl DdpOptions {
    /// Sets whether some parameters may get no gradient in a backward pass, PyTorch's `find_unused_parameters`; `false`
    /// by default, where this is an error that lists them. If `true`, a parameter that no rank uses in a step keeps its
    /// current gradient, and one that some ranks use gets the average, to which the other ranks contribute 0. This
    /// costs one more small collective per step.
    pub fn find_unused(self, find_unused: bool) -> Self {
        DdpOptions { find_unused, ..self }
    }

    /// Sets whether rank 0's buffers (running statistics) are copied to all ranks after each backward pass that
    /// averages gradients; `true` by default, as in PyTorch, which does it before the next forward pass.
    pub fn broadcast_buffers(self, broadcast_buffers: bool) -> Self {
        DdpOptions { broadcast_buffers, ..self }
    }

    /// Sets how many bytes of gradients are averaged at once: in the first bucket, which is complete early in the
    /// backward pass, and in the others. 1 MiB and 25 MiB by default, as in PyTorch.
    pub fn bucket_bytes(self, first: usize, others: usize) -> Self {
        DdpOptions { first_bucket_bytes: first, bucket_bytes: others, ..self }
    }
}
