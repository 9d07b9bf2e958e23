//! Attention: composed of products and softmax, which the trait's defaults say.

use kiln_backend::AttentionBackend;

use crate::device::CudaBackend;

impl AttentionBackend for CudaBackend {}
