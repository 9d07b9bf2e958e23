//! CUDA's operations: one file per family of the [`Backend`] trait, named as in `kiln-backend` and `kiln-cpu`. Each
//! operation checks its operands, builds its kernels' parameters, and queues the kernels.

mod arg_reduce;
mod attention;
mod binary;
mod class_loss;
mod conv2d;
mod conv2d_direct;
mod conv2d_padded;
mod conv3d;
pub(crate) mod convolution;
mod copy;
mod dropout;
mod fill;
mod grad_scaler;
mod index;
pub(crate) mod launch;
mod linear;
mod loss;
mod matmul;
mod memory;
mod norm;
mod operand;
mod optim;
mod pointwise_loss;
mod pool2d;
mod random;
mod reduce;
mod relu_bias_grad;
mod rnn_cell;
mod scan;
mod softmax;
mod sort;
mod tril_triu;
mod unary;
mod values;
mod where_cond;

use kiln_backend::Backend;

use crate::device::CudaBackend;

impl Backend for CudaBackend {}
