//! Compiles the C++ part of the simulated device and every kernel file. Does nothing without the feature `device`.
#[cfg(feature = "device")]
#[path = "build/kernels.rs"]
mod kernels;
#[cfg(feature = "device")]
#[path = "build/rewrite.rs"]
mod rewrite;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "device")]
    if let Err(message) = kernels::build() {
        println!("cargo::error={}", message.replace('\n', " | "));
    }
}
