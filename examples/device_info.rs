//! Prints the state of CUDA on this machine: driver, GPUs, libraries with their versions and files, kernels, and what
//! is missing and how to fix it. It runs without a GPU, and in a build without the feature `cuda`.
//!
//! ```text
//! cargo run --features cuda --example device_info
//! ```

use std::process::ExitCode;

use clap::Parser;
use kiln::{Conv2d, cuda, prelude::*};

/// Prints the state of CUDA on this machine, and what is missing and how to fix it.
#[derive(Parser)]
struct Args {
    /// First compute a product and a convolution, so that the report shows what happens when devices and libraries are
    /// used, and which fallbacks are taken.
    #[arg(long = "use")]
    first_use: bool,
}

/// A product and a convolution of ones, and the sums of their results.
fn compute(device: Device) -> kiln::Result<[f32; 2]> {
    let (x, image, filter) =
        (Tensor::ones([4, 4], device)?, Tensor::ones([1, 1, 4, 4], device)?, Tensor::ones([1, 1, 3, 3], device)?);
    let convolved = image.conv2d(&filter, None, &Conv2d::default())?;
    Ok([x.matmul(&x)?.sum(())?.item()?, convolved.sum(())?.item()?])
}

fn main() -> ExitCode {
    let computed = if Args::parse().first_use { Device::cuda(0).and_then(compute) } else { Ok([64.0, 36.0]) };
    print!("{}", cuda::report());
    match computed {
        Ok([64.0, 36.0]) => ExitCode::SUCCESS,
        Ok(sums) => {
            eprintln!("a product and a convolution of ones sum to {sums:?} and not to [64.0, 36.0]");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
