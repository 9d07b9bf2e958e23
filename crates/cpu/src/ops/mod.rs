//! The CPU's operations: one file per family of the [`Backend`](kiln_backend::Backend) trait, named as in
//! `kiln-backend`, `kiln-cuda` and `kernels/`.

mod arg_reduce;
mod attention;
mod binary;
mod binary_kernels;
mod class_loss;
mod conv2d;
mod conv3d;
mod copy;
mod dropout;
mod fill;
mod grad_scaler;
mod index;
mod linear;
mod matmul;
mod memory;
mod norm;
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
mod where_cond;
