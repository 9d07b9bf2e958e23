//! Makes small IDX files, MNIST's format, for tests.

#![allow(dead_code)] // each test uses some of it

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

pub fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|d| bytes.extend(d.to_be_bytes()));
    bytes.extend(data);
    bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// `n` images whose pixels tell their places, with labels 0, 1, … 9, 0 …
pub fn images_and_labels(n: u32) -> [Vec<u8>; 2] {
    let pixels: Vec<u8> = (0..n * 784).map(|i| (i / 784 * 7 + i % 784) as u8).collect();
    let labels: Vec<u8> = (0..n).map(|i| (i % 10) as u8).collect();
    [idx(&[n, 28, 28], &pixels), idx(&[n], &labels)]
}
