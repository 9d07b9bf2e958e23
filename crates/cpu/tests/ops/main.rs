//! Every primitive of the backend, in every dtype and layout, against direct evaluation of its definition.

mod arg_reduce;
mod attention;
mod binary;
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
mod norm;
mod optim;
mod pointwise_loss;
mod pool2d;
mod random;
mod reduce;
mod scan;
mod softmax;
mod sort;
mod testing;
mod tril_triu;
mod unary;
mod where_cond;
