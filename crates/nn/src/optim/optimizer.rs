//! The [`Optimizer`] trait: the interface for training loops and schedulers.

use kiln_tensor::{GradScaling, Result, StateDict, Tensor, unscale_grads};

/// What a training loop and a scheduler need of any optimizer.
pub trait Optimizer {
    /// Updates the parameters by their gradients, without waiting for the device. Parameters without a gradient are
    /// left unchanged, and listed by [`unused_parameters`](Optimizer::unused_parameters).
    ///
    /// # Errors
    /// If **no** parameter has a gradient, since nothing would be learned; or if a hyperparameter was changed to an
    /// invalid value.
    fn step(&mut self) -> Result<()>;

    /// The step of a [`GradScaler`](super::GradScaler): by gradients that are divided by a scale, and not at all if one of them
    /// was infinite or NaN. The optimizers of this module, and each [`UpdateRule`](super::UpdateRule), decide that on the
    /// device. Others wait for it: this is what they do.
    ///
    /// # Errors
    /// Those of [`step`](Optimizer::step).
    fn step_scaled(&mut self, scaling: GradScaling<'_>) -> Result<()> {
        let GradScaling { found_inf, scale } = scaling;
        if scale.is_some() {
            let grads: Vec<Tensor> = self.parameters().iter().filter_map(Tensor::grad).collect();
            unscale_grads(&grads, scale, found_inf)?;
        }
        if found_inf.item::<f32>()? == 0.0 { self.step() } else { Ok(()) }
    }

    /// Clears the gradients of all parameters.
    fn zero_grad(&self);

    /// The parameters that it updates, of all groups: for [`clip_grad_norm_`](super::clip_grad_norm_) between the
    /// backward pass and the step.
    fn parameters(&self) -> Vec<Tensor>;

    /// The parameters that require gradients and had none in the latest step, by name (or by index, if they were given
    /// without names). Layers that never appear in the loss show up here.
    fn unused_parameters(&self) -> &[String];

    /// The values that schedulers change, for each parameter group.
    fn rates(&self) -> Vec<GroupRates>;

    /// Sets the values that schedulers change.
    ///
    /// # Errors
    /// If there is not one entry for each group, or a value is invalid. Nothing has been changed then.
    fn set_rates(&mut self, rates: &[GroupRates]) -> Result<()>;

    /// The learning rate of the first group.
    fn lr(&self) -> f64 {
        self.rates().first().map_or(0.0, |group| group.lr)
    }

    /// Sets the learning rate of all groups.
    ///
    /// # Errors
    /// If it is negative or not finite.
    fn set_lr(&mut self, lr: f64) -> Result<()> {
        let rates: Vec<_> = self.rates().into_iter().map(|group| GroupRates { lr, ..group }).collect();
        self.set_rates(&rates)
    }

    /// The optimizer's name, hyperparameters, step counts and moments as tensors by name. If they are saved and
    /// loaded, like a module's, a run continues exactly as without the interruption. They share memory with the
    /// optimizer: [`copy`](kiln_tensor::Tensor::copy) those that must not change with it.
    ///
    /// # Errors
    /// If memory runs out.
    fn state_dict(&self) -> Result<StateDict>;

    /// Restores the state that [`state_dict`](Optimizer::state_dict) returned. The optimizer must have been created
    /// with the same parameters and groups. If it fails, nothing is changed.
    ///
    /// # Errors
    /// If the state is that of another optimizer (states of older PyTorch versions do not name theirs), a name is
    /// missing or unexpected, or a shape differs.
    fn load_state_dict(&mut self, state: &StateDict) -> Result<()>;
}

/// The values of a parameter group that schedulers read and change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupRates {
    /// The learning rate.
    pub lr: f64,
    /// The learning rate before the first scheduler changed it.
    pub initial_lr: Option<f64>,
    /// The momentum, or Adam's `beta1`; `None` if the optimizer has neither.
    pub momentum: Option<f64>,
}
