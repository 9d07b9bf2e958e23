//! The compiled kernels, as the compiler hands them to the generator of the launches.

use std::path::PathBuf;

/// The compiled kernels.
#[derive(Default)]
pub struct Compiled {
    /// Ordered by file, and SASS before PTX.
    pub images: Vec<Image>,
    /// The PTX of each file, with the file's stem.
    pub ptx: Vec<(String, String)>,
    /// The CUDA release of the assembler, in the driver's encoding: 12080 for 12.8.
    pub toolkit: u32,
}

/// One compiled file for one architecture.
pub struct Image {
    /// The stem of the `.cu` file.
    pub stem: String,
    pub capability: u32,
    pub sass: bool,
    /// The bytes before compression.
    pub len: usize,
    pub compressed: PathBuf,
}
