//! What makes an optimizer: hyper-parameters ([`hyperparameters!`](crate::hyperparameters)) and an update rule
//! ([`UpdateRule`]), both in one file.

use std::fmt::Debug;

use kiln_tensor::{Error, OptimRule, Result, Tensor};

/// The hyper-parameters of an optimizer, which [`hyperparameters!`](crate::hyperparameters) declares.
pub trait Hyperparameters: Copy + Debug + Send + Sync + 'static {
    /// The optimizer's name.
    const NAME: &'static str;

    /// The learning rate.
    fn lr_mut(&mut self) -> &mut f64;

    /// Calls `each` with the name and place of every hyper-parameter.
    ///
    /// # Errors
    /// What `each` returns.
    fn each(&mut self, each: &mut dyn FnMut(&'static str, Value<'_>) -> Result<()>) -> Result<()>;
}

/// The place of a hyper-parameter.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Value<'a> {
    Number(&'a mut f64),
    Pair(&'a mut (f64, f64)),
    Flag(&'a mut bool),
}

/// How an optimizer changes a parameter: the one thing to write for a new one.
///
/// [`update`](UpdateRule::update) is written in tensor operations, so it runs on every device and in every float type. A
/// rule that the devices have as a fused primitive names it ([`fused`](UpdateRule::fused)), and a step of a whole
/// parameter group is then one call of it. This is Lion (Chen et al., 2023) in a program of one's own:
///
/// ```
/// use kiln_nn::optim::{Hyperparameters, Optim, Optimizer, State, Update, UpdateRule, non_negative};
/// use kiln_tensor::{Device, Result, Tensor};
///
/// kiln_nn::hyperparameters! {
///     "Lion" LionOptions, lr = 1e-4,
///     {
///         betas: pair = (0.9, 0.99), "How much of the momentum enters the step, and how much of it is kept.";
///         weight_decay: f64 = 0.0, "The share of the parameter, times the learning rate, that is taken away.";
///     }
/// }
/// type Lion = Optim<LionOptions>;
///
/// impl UpdateRule for LionOptions {
///     fn states(&self) -> Vec<State> {
///         vec![State::zeros("exp_avg")]
///     }
///
///     fn validate(&self) -> Result<()> {
///         non_negative(Self::NAME, "learning rate", self.lr)
///     }
///
///     fn update(&self, at: &Update<'_>) -> Result<()> {
///         let (average, grad, lr) = (&at.states[0], at.grad, at.number(at.lr)?);
///         let direction = average.mul(self.betas.0)?.add(&grad.mul(1.0 - self.betas.0)?)?.sign()?;
///         at.param.sub_(&direction.add(&at.param.mul(self.weight_decay)?)?.mul(&lr)?)?;
///         average.mul_(self.betas.1)?;
///         average.add_(&grad.mul(1.0 - self.betas.1)?)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let x = Tensor::new([1.0f32, -2.0], Device::Cpu)?.requires_grad_(true)?;
/// let mut optimizer = Lion::new([("x", &x)], LionOptions::new(0.1).betas((0.9, 0.99)))?;
/// x.square()?.sum(())?.backward()?;
/// optimizer.step()?;
/// assert_eq!(x.to_vec::<f32>()?, [0.9, -1.9]);
/// assert!(optimizer.state_dict()?.contains_key("state.x.exp_avg"));
/// # Ok(())
/// # }
/// ```
pub trait UpdateRule: Hyperparameters {
    /// The state tensors that the rule keeps of each parameter, each of its shape, under PyTorch's names.
    fn states(&self) -> Vec<State>;

    /// Whether all values make sense.
    ///
    /// # Errors
    /// One does not; the message names it.
    fn validate(&self) -> Result<()>;

    /// Changes a parameter and its states in place. No gradients are recorded.
    ///
    /// # Errors
    /// Those of the operations.
    fn update(&self, at: &Update<'_>) -> Result<()>;

    /// The same rule as a primitive of the devices, if they have it.
    fn fused(&self) -> Option<OptimRule> {
        None
    }

    /// The momentum, or Adam's `beta1`, which schedulers may change.
    fn momentum_mut(&mut self) -> Option<&mut f64> {
        None
    }
}

/// A state tensor of each parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// Its name in the state dict.
    pub name: &'static str,
    /// What it is filled with before the first step.
    pub initial: f64,
}

impl State {
    /// One that begins with zeros.
    #[must_use]
    pub fn zeros(name: &'static str) -> State {
        State { name, initial: 0.0 }
    }
}

/// A parameter in a step, for [`UpdateRule::update`]. Half precision is handed over in `f32`, and rounded afterwards.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// The parameter, to be changed in place.
    pub param: &'a Tensor,
    /// Its gradient, of its shape and dtype.
    pub grad: &'a Tensor,
    /// Its [`UpdateRule::states`] in order, of its shape and dtype, to be changed in place.
    pub states: &'a [Tensor],
    /// The learning rate: one `f64` on the parameter's device, where it may change between steps.
    pub lr: &'a Tensor,
    /// The number of this step, 1 in the first: one `f64` on the parameter's device.
    pub step: &'a Tensor,
}

impl Update<'_> {
    /// One number, computed in `f64`, in the parameter's dtype.
    ///
    /// # Errors
    /// Memory runs out.
    pub fn number(&self, number: &Tensor) -> Result<Tensor> {
        number.to_dtype(self.param.dtype())
    }

    /// `base` to the power of [`step`](Update::step), in `f64`.
    ///
    /// # Errors
    /// Memory runs out.
    pub fn power_of_step(&self, base: f64) -> Result<Tensor> {
        self.step.full_like(base)?.pow(self.step)
    }

    /// The gradient as most rules see it: negated if the objective is maximized, with an L2 penalty.
    ///
    /// # Errors
    /// Memory runs out.
    pub fn gradient(&self, weight_decay: f64, maximize: bool) -> Result<Tensor> {
        let grad = if maximize { self.grad.neg()? } else { self.grad.clone() };
        // Without decay an infinite parameter must not make the gradient NaN.
        if weight_decay == 0.0 { Ok(grad) } else { grad.add(&self.param.mul(weight_decay)?) }
    }
}

/// `average = weight * average + (1 - weight) * value`, as the averages of the rules are kept.
pub(super) fn keep(average: &Tensor, weight: f64, value: &Tensor) -> Result<()> {
    average.mul_(weight)?;
    average.add_(&value.mul(1.0 - weight)?)
}

fn invalid(op: &'static str, what: &str, value: impl Debug, expected: &str) -> Error {
    Error::argument(op, format!("{what} {value:?} is invalid: it must be {expected}"))
}

/// Refuses a hyper-parameter that is negative or not finite.
///
/// # Errors
/// It is.
pub fn non_negative(op: &'static str, what: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 { Ok(()) } else { Err(invalid(op, what, value, "finite and not negative")) }
}

/// Refuses a hyper-parameter that is not finite.
///
/// # Errors
/// It is not.
pub fn finite(op: &'static str, what: &str, value: f64) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(invalid(op, what, value, "finite")) }
}

/// Refuses shares that an average keeps outside `0 <= beta < 1`.
///
/// # Errors
/// One is outside.
pub fn shares(op: &'static str, what: &str, (a, b): (f64, f64)) -> Result<()> {
    if [a, b].iter().all(|share| (0.0..1.0).contains(share)) {
        return Ok(());
    }
    Err(invalid(op, what, (a, b), "in [0, 1)"))
}

/// Declares the hyper-parameters of an optimizer: a struct with PyTorch's names and defaults and with a method for each,
/// and its [`Hyperparameters`](crate::optim::Hyperparameters). Each is an `f64`, a `bool` or a `pair` of `f64`.
/// [`UpdateRule`](crate::optim::UpdateRule) has an example.
#[macro_export]
macro_rules! hyperparameters {
    (
        $optimizer:literal $name:ident, lr = $lr:expr,
        { $($field:ident: $ty:ident = $default:expr, $doc:literal;)* }
    ) => {
        #[doc = concat!("The hyper-parameters of ", $optimizer, ". A number alone, as the learning rate, converts.")]
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name {
            /// The learning rate.
            pub lr: f64,
            $(#[doc = $doc] pub $field: $crate::hyperparameters!(@type $ty),)*
        }

        impl ::core::default::Default for $name {
            fn default() -> Self {
                $name { lr: $lr, $($field: $default),* }
            }
        }

        impl ::core::convert::From<f64> for $name {
            fn from(lr: f64) -> Self {
                $name { lr, ..<$name as ::core::default::Default>::default() }
            }
        }

        impl $name {
            /// This learning rate, and the defaults for the rest.
            #[must_use]
            pub fn new(lr: f64) -> Self {
                lr.into()
            }

            /// With this learning rate.
            #[must_use]
            pub fn lr(self, lr: f64) -> Self {
                Self { lr, ..self }
            }

            $(
                #[doc = $doc]
                #[must_use]
                pub fn $field(self, $field: $crate::hyperparameters!(@type $ty)) -> Self {
                    Self { $field, ..self }
                }
            )*
        }

        impl $crate::optim::Hyperparameters for $name {
            const NAME: &'static str = $optimizer;

            fn lr_mut(&mut self) -> &mut f64 {
                &mut self.lr
            }

            fn each(
                &mut self,
                each: &mut dyn FnMut(
                    &'static str,
                    $crate::optim::Value<'_>,
                ) -> ::core::result::Result<(), $crate::optim::Error>,
            ) -> ::core::result::Result<(), $crate::optim::Error> {
                each("lr", $crate::optim::Value::Number(&mut self.lr))?;
                $(each(stringify!($field), $crate::hyperparameters!(@value &mut self.$field, $ty))?;)*
                Ok(())
            }
        }
    };
    (@type pair) => { (f64, f64) };
    (@type $ty:ident) => { $ty };
    (@value $place:expr, f64) => { $crate::optim::Value::Number($place) };
    (@value $place:expr, bool) => { $crate::optim::Value::Flag($place) };
    (@value $place:expr, pair) => { $crate::optim::Value::Pair($place) };
}
