//! The simulated device, called as a program calls the driver.
mod blas;
mod common;
mod dnn;
mod driver;
mod faults;
mod kernels;
mod streams;
