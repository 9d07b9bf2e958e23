//! Tests of the simulated device, called as a program calls the driver.
mod blas;
mod blas_faults;
mod capture;
mod common;
mod convolution;
mod devices;
mod dnn;
mod driver;
mod faults;
mod graphs;
mod kernels;
mod nccl;
mod parts;
mod positions;
mod products;
mod sanitizers;
mod streams;
