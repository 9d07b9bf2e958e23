//! The [`Optimizer`] trait: what training loops and schedulers call.

use kiln_tensor::{Result, StateDict, Tensor};

/// What a training loop and a scheduler need of an optimizer, whichever it is.
pub trait Optimizer {
    /// Changes the parameters by their gradients, without waiting for the device. Those that have no
    /// gradient are left as they are, and listed by [`unused_parameters`](Optimizer::unused_parameters).
    ///
    /// # Errors
    /// **No** parameter has a gradient: nothing would be learned. Or a hyper-parameter that was changed is
    /// invalid.
    fn step(&mut self) -> Result<()>;

    /// The loss's backward pass, scaled as this optimizer wants it: for loops that take any, because
    /// [`MixedPrecision`](super::MixedPrecision) needs it. For the others it is `loss.backward()`.
    ///
    /// # Errors
    /// As [`Tensor::backward`].
    fn backward(&self, loss: &Tensor) -> Result<()> {
        loss.backward()
    }

    /// Forgets the gradients of all parameters.
    fn zero_grad(&self);

    /// What it changes, of all groups: for [`clip_grad_norm_`](super::clip_grad_norm_) between the backward pass and the step. For
    /// [`MixedPrecision`](super::MixedPrecision) these are the `f32` copies, which have gradients after [`unscale_`](Optimizer::unscale_).
    fn parameters(&self) -> Vec<Tensor>;

    /// Brings gradients into the form in which they can be clipped or inspected: for loops that take any optimizer,
    /// because [`MixedPrecision`](super::MixedPrecision) needs it. The others have nothing to do.
    ///
    /// # Errors
    /// Memory runs out.
    fn unscale_(&mut self) -> Result<()> {
        Ok(())
    }

    /// The parameters that require gradients and had none in the latest step, by name (or by position, if
    /// they were given without names). Layers that never appear in the loss show up here.
    fn unused_parameters(&self) -> &[String];

    /// What schedulers change, for each parameter group.
    fn rates(&self) -> Vec<GroupRates>;

    /// Sets what schedulers change.
    ///
    /// # Errors
    /// There is not one entry for each group, or a value is invalid. Nothing has been changed then.
    fn set_rates(&mut self, rates: &[GroupRates]) -> Result<()>;

    /// The learning rate of the first group.
    fn lr(&self) -> f64 {
        self.rates().first().map_or(0.0, |group| group.lr)
    }

    /// Sets the learning rate of all groups.
    ///
    /// # Errors
    /// It is negative or not finite.
    fn set_lr(&mut self, lr: f64) -> Result<()> {
        let rates: Vec<_> = self.rates().into_iter().map(|group| GroupRates { lr, ..group }).collect();
        self.set_rates(&rates)
    }

    /// The optimizer's name, hyper-parameters, step counts and moments as tensors by name: saved and loaded like a module's, a
    /// run continues exactly as without the interruption. They share memory with the optimizer:
    /// [`copy`](kiln_tensor::Tensor::copy) what must not change with it.
    ///
    /// # Errors
    /// Memory runs out.
    fn state_dict(&self) -> Result<StateDict>;

    /// Takes over the state that [`state_dict`](Optimizer::state_dict) gave. The optimizer must have been
    /// made with the same parameters and groups. Nothing is changed if it fails.
    ///
    /// # Errors
    /// The state is that of another optimizer (states of older versions of PyTorch do not say whose they are), a name is
    /// missing or unexpected, or a shape differs.
    fn load_state_dict(&mut self, state: &StateDict) -> Result<()>;
}

/// What schedulers read and change of a parameter group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupRates {
    /// The learning rate.
    pub lr: f64,
    /// The learning rate before the first scheduler changed it.
    pub initial_lr: Option<f64>,
    /// The momentum, or Adam's `beta1`; `None` if the optimizer has neither.
    pub momentum: Option<f64>,
}
