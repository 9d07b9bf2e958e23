//! Optimizers, learning-rate schedulers ([`lr_scheduler`]), gradient clipping, and averages of weights ([`AveragedModel`]).
//!
//! ```
//! use kiln_nn::{Linear, Module, ModuleTree, functional::mse_loss};
//! use kiln_nn::optim::{Adam, AdamOptions, Optimizer, SGD, SGDOptions};
//! use kiln_tensor::{Device, Tensor};
//! # fn main() -> kiln_tensor::Result<()> {
//! let model = Linear::new(4, 1)?;
//! let mut optimizer = SGD::new(model.parameters(), 1e-3)?; // only the learning rate
//! let mut optimizer = Adam::new(model.named_parameters(), AdamOptions::new(1e-3).betas((0.8, 0.99)))?;
//! let mut optimizer = SGD::with_groups([
//!     (vec![("weight", &*model.weight)], SGDOptions::new(1e-2).momentum(0.9)),
//!     (vec![("bias", model.bias.as_deref().unwrap())], SGDOptions::new(1e-3)),
//! ])?;
//!
//! let (x, y) = (Tensor::randn([8, 4], Device::Cpu)?, Tensor::zeros([8, 1], Device::Cpu)?);
//! optimizer.zero_grad();
//! mse_loss(&model.forward(&x)?, &y)?.backward()?;
//! optimizer.step()?;
//! assert!(optimizer.unused_parameters().is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! A custom optimizer is an [`UpdateRule`].

mod clip;
mod early_stopping;
mod engine;
mod grad_scaler;
mod group;
mod lbfgs;
pub mod lr_scheduler;
mod optimizer;
mod rule;
mod state;
mod swa;
mod watch;

#[doc(no_inline)]
pub use kiln_tensor::{Error, GradScaling, Result};

pub use crate::total_norm::get_total_norm;
pub use clip::{clip_grad_norm_, clip_grad_value_};
pub use early_stopping::EarlyStopping;
pub use engine::Optim;
pub use grad_scaler::GradScaler;
pub use group::{Param, ParamGroup};
pub use lbfgs::{LBFGS, LBFGSOptions, LineSearch};
pub use optimizer::{GroupRates, Optimizer};
pub use rule::{Choice, Extent, Hyperparameters, State, Update, UpdateRule, Value, finite, non_negative, shares};
pub use swa::{Average, AverageFn, AveragedModel, update_bn};

/// The optimizers, one file each.
macro_rules! optimizers {
    ($($file:ident::{$($name:ident),*};)*) => {$(
        mod $file;
        pub use $file::{$($name),*};
    )*};
}
optimizers! {
    adadelta::{Adadelta, AdadeltaOptions};
    adafactor::{Adafactor, AdafactorOptions};
    adagrad::{Adagrad, AdagradOptions};
    adam::{Adam, AdamOptions, AdamW, AdamWOptions};
    adamax::{Adamax, AdamaxOptions};
    asgd::{ASGD, ASGDOptions};
    lion::{Lion, LionOptions};
    muon::{AdjustLr, Muon, MuonOptions};
    nadam::{NAdam, NAdamOptions};
    radam::{RAdam, RAdamOptions};
    rmsprop::{RMSprop, RMSpropOptions};
    rprop::{Rprop, RpropOptions};
    sgd::{SGD, SGDOptions};
}
