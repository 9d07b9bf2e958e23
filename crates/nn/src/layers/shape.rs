//! Layers that only reshape or pass on their input: `Flatten`, `Unflatten`, `Identity`.

use kiln_derive::located;
use kiln_tensor::{Result, Tensor};

use super::sizes::tuple;
use crate::module::Module;

/// Merges dimensions `start_dim` to `end_dim`, both included. By default all but the first, the batch: `[N, 1, 28, 28]`
/// to `[N, 784]`.
#[derive(Clone, Copy, Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct Flatten {
    start_dim: i64,
    end_dim: i64,
}

impl Default for Flatten {
    fn default() -> Self {
        Flatten::dims(1, -1)
    }
}

#[located(site)]
impl Flatten {
    /// Merges all dimensions but the first.
    #[must_use]
    pub fn new() -> Flatten {
        Flatten::default()
    }

    /// Merges dimensions `start_dim` to `end_dim`; -1 is the last.
    #[must_use]
    pub fn dims(start_dim: i64, end_dim: i64) -> Flatten {
        Flatten { start_dim, end_dim }
    }

    fn describe(&self) -> String {
        format!("start_dim={}, end_dim={}", self.start_dim, self.end_dim)
    }
}

#[located(module)]
impl Module for Flatten {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.flatten(self.start_dim, self.end_dim)
    }
}

/// Splits a dimension into several: `[N, 50]` to `[N, 2, 5, 5]`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Unflatten.html>).
#[derive(Clone, Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct Unflatten {
    dim: i64,
    #[module(skip, save)]
    unflattened_size: Vec<i64>,
}

#[located(site)]
impl Unflatten {
    /// Splits dimension `dim`, -1 being the last, into these extents, one of which may be -1.
    #[must_use]
    pub fn new(dim: i64, unflattened_size: &[i64]) -> Unflatten {
        Unflatten { dim, unflattened_size: unflattened_size.into() }
    }

    fn describe(&self) -> String {
        format!("dim={}, unflattened_size={}", self.dim, tuple(&self.unflattened_size))
    }
}

#[located(module)]
impl Module for Unflatten {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.unflatten(self.dim, &self.unflattened_size[..])
    }
}

/// Returns its input. Takes the place of a layer that is not needed.
#[derive(Clone, Copy, Debug, Default, Module)]
#[module(save)]
pub struct Identity;

impl Identity {
    /// The layer.
    #[must_use]
    pub fn new() -> Identity {
        Identity
    }
}

#[located(module)]
impl Module for Identity {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }
}
