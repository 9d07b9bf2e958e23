//! The option `--autocast` of the examples: training in mixed precision.

use kiln::{
    autocast,
    nn::StateDict,
    optim::{GradScaler, Optimizer},
    prelude::*,
};

/// The dtype of products and convolutions; parameters, sums and losses stay in `f32`.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Low {
    Bf16,
    F16,
}

impl Low {
    pub fn dtype(self) -> DType {
        match self {
            Low::Bf16 => DType::BF16,
            Low::F16 => DType::F16,
        }
    }
}

/// Runs a forward pass in a region of autocast, if one is asked for.
pub fn in_region<T>(low: Option<Low>, forward: impl FnOnce() -> kiln::Result<T>) -> kiln::Result<T> {
    match low {
        Some(low) => autocast(low.dtype(), forward),
        None => forward(),
    }
}

/// An optimizer, and the scale of its losses, which only `f16` needs.
pub struct ScaledOptimizer {
    pub optimizer: Box<dyn Optimizer>,
    pub scaler: GradScaler,
}

/// The names of the scaler's state in a checkpoint begin with this.
const PREFIX: &str = "scaler.";

impl ScaledOptimizer {
    pub fn new(optimizer: Box<dyn Optimizer>, low: Option<Low>) -> ScaledOptimizer {
        ScaledOptimizer { optimizer, scaler: GradScaler::new().enabled(matches!(low, Some(Low::F16))) }
    }

    /// Backpropagation and a step.
    #[allow(dead_code, reason = "examples that clip gradients do more")]
    pub fn step(&mut self, loss: &Tensor) -> kiln::Result<()> {
        self.optimizer.zero_grad();
        self.scaler.scale(loss)?.backward()?;
        self.scaler.step(self.optimizer.as_mut())?;
        self.scaler.update()
    }

    /// What a checkpoint keeps of the scaler.
    #[allow(dead_code, reason = "not every example writes checkpoints")]
    pub fn scaler_state(&self) -> kiln::Result<StateDict> {
        Ok(self.scaler.state_dict()?.into_iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor)).collect())
    }

    #[allow(dead_code, reason = "as above")]
    pub fn load_scaler_state(&mut self, state: &StateDict) -> kiln::Result<()> {
        let own = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(PREFIX)?.to_owned(), tensor.clone()));
        self.scaler.load_state_dict(&state.iter().filter_map(own).collect())
    }
}
