//! The parts of an optimizer: hyperparameters ([`hyperparameters!`](crate::hyperparameters)) and an update rule
//! ([`UpdateRule`]), both in one file.

use std::{any::Any, fmt::Debug};

use kiln_tensor::{DType, Error, OptimRule, Result, Shape, Tensor};

/// The hyperparameters of an optimizer, which [`hyperparameters!`](crate::hyperparameters) declares.
pub trait Hyperparameters: Copy + Debug + Send + Sync + 'static {
    /// The optimizer's name.
    const NAME: &'static str;

    /// The learning rate.
    fn lr_mut(&mut self) -> &mut f64;

    /// Calls `each` with the name and a reference to every hyperparameter.
    ///
    /// # Errors
    /// Those of `each`.
    fn each(&mut self, each: &mut dyn FnMut(&'static str, Value<'_>) -> Result<()>) -> Result<()>;
}

/// A reference to a hyperparameter.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Value<'a> {
    Number(&'a mut f64),
    Pair(&'a mut (f64, f64)),
    /// A pair whose first number may be left to the rule.
    OptionalPair(&'a mut (Option<f64>, f64)),
    Triple(&'a mut (f64, f64, f64)),
    Count(&'a mut usize),
    Flag(&'a mut bool),
    Choice(&'a mut dyn Choice),
}

/// A hyperparameter that is one of several named values, like PyTorch's strings.
pub trait Choice: Debug {
    /// The name.
    fn name(&self) -> &'static str;

    /// Sets the value with this name; returns `false` if there is none.
    fn set(&mut self, name: &str) -> bool;
}

/// How an optimizer updates a parameter: the only thing to write for a new optimizer.
///
/// [`update`](UpdateRule::update) is written with tensor operations, so it runs on every device and in every
/// floating-point dtype. If the devices have the rule as a fused primitive, [`fused`](UpdateRule::fused) names it, and
/// a step of a whole parameter group is a single call. This is Lion (Chen et al., 2023) in a user's program:
///
/// ```
/// use kiln_nn::optim::{Hyperparameters, Optim, Optimizer, State, Update, UpdateRule, non_negative};
/// use kiln_tensor::{Device, Result, Tensor, calc};
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
///         let direction = calc!(average * self.betas.0 + grad * (1.0 - self.betas.0))?.sign()?;
///         at.param.sub_(&calc!((direction + at.param * self.weight_decay) * lr)?)?;
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
    /// The state tensors that the rule keeps for each parameter, under PyTorch's names.
    fn states(&self) -> Vec<State>;

    /// The state tensors of a parameter of this shape, if they depend on it; by default,
    /// [`states`](UpdateRule::states).
    fn states_of(&self, _param: &Shape) -> Vec<State> {
        self.states()
    }

    /// Checks the hyperparameters.
    ///
    /// # Errors
    /// If one is invalid; the message names it.
    fn validate(&self) -> Result<()>;

    /// Checks whether the rule supports this parameter; by default, any floating-point tensor.
    ///
    /// # Errors
    /// If it does not; the message names the parameter.
    fn accept(&self, _name: &str, _param: &Tensor) -> Result<()> {
        Ok(())
    }

    /// Updates a parameter and its states in place. Nothing is recorded on the tape.
    ///
    /// # Errors
    /// Those of the operations.
    fn update(&self, at: &Update<'_>) -> Result<()>;

    /// The same rule as a primitive of the devices, if they have one.
    fn fused(&self) -> Option<OptimRule> {
        None
    }

    /// The momentum, or Adam's `beta1`, which schedulers may change.
    fn momentum_mut(&mut self) -> Option<&mut f64> {
        None
    }
}

/// An [`UpdateRule`] as an object, so that the optimizer's code is compiled once, here, rather than for each rule in
/// each program.
pub(super) trait DynRule: Any {
    fn name(&self) -> &'static str;
    fn lr(&self) -> f64;
    fn lr_mut(&mut self) -> &mut f64;
    fn momentum(&self) -> Option<f64>;
    fn momentum_mut(&mut self) -> Option<&mut f64>;
    /// A copy.
    fn boxed(&self) -> Box<dyn DynRule>;
    /// Copies the hyperparameters of a rule of the same type.
    fn assign(&mut self, from: &dyn DynRule);
    fn each(&mut self, each: &mut dyn FnMut(&'static str, Value<'_>) -> Result<()>) -> Result<()>;
    fn states_of(&self, param: &Shape) -> Vec<State>;
    fn validate(&self) -> Result<()>;
    fn accept(&self, name: &str, param: &Tensor) -> Result<()>;
    fn update(&self, at: &Update<'_>) -> Result<()>;
    fn fused(&self) -> Option<OptimRule>;
}

impl<O: UpdateRule> DynRule for O {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn lr(&self) -> f64 {
        let mut copy = *self;
        *Hyperparameters::lr_mut(&mut copy)
    }

    fn lr_mut(&mut self) -> &mut f64 {
        Hyperparameters::lr_mut(self)
    }

    fn momentum(&self) -> Option<f64> {
        let mut copy = *self;
        UpdateRule::momentum_mut(&mut copy).copied()
    }

    fn momentum_mut(&mut self) -> Option<&mut f64> {
        UpdateRule::momentum_mut(self)
    }

    fn boxed(&self) -> Box<dyn DynRule> {
        Box::new(*self)
    }

    fn assign(&mut self, from: &dyn DynRule) {
        if let Some(from) = (from as &dyn Any).downcast_ref::<O>() {
            *self = *from;
        }
    }

    fn each(&mut self, each: &mut dyn FnMut(&'static str, Value<'_>) -> Result<()>) -> Result<()> {
        Hyperparameters::each(self, each)
    }

    fn states_of(&self, param: &Shape) -> Vec<State> {
        UpdateRule::states_of(self, param)
    }

    fn accept(&self, name: &str, param: &Tensor) -> Result<()> {
        UpdateRule::accept(self, name, param)
    }

    fn validate(&self) -> Result<()> {
        UpdateRule::validate(self)
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        UpdateRule::update(self, at)
    }

    fn fused(&self) -> Option<OptimRule> {
        UpdateRule::fused(self)
    }
}

/// A state tensor of each parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// Its name in the state dict.
    pub name: &'static str,
    /// Its initial value.
    pub initial: f64,
    /// Its shape.
    pub extent: Extent,
}

/// The shape of a state, relative to its parameter's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The parameter's.
    Param,
    /// One number, in `f64`.
    Scalar,
    /// The parameter's, with this dimension, counted from the last, of extent 1.
    Reduced(usize),
}

impl State {
    /// A state of the parameter's shape with this initial value.
    #[must_use]
    pub fn full(name: &'static str, initial: f64) -> State {
        State { name, initial, extent: Extent::Param }
    }

    /// A state of the parameter's shape, initially zeros.
    #[must_use]
    pub fn zeros(name: &'static str) -> State {
        State::full(name, 0.0)
    }

    /// A single `f64` with this initial value.
    #[must_use]
    pub fn scalar(name: &'static str, initial: f64) -> State {
        State { name, initial, extent: Extent::Scalar }
    }

    /// A state of the parameter's shape with one dimension, counted from the last, of extent 1, initially zeros.
    #[must_use]
    pub fn reduced(name: &'static str, from_last: usize) -> State {
        State { name, initial: 0.0, extent: Extent::Reduced(from_last) }
    }

    /// Its shape for a parameter.
    pub(super) fn shape(&self, param: &Shape) -> Result<Shape> {
        match self.extent {
            Extent::Param => Ok(*param),
            Extent::Scalar => Ok(Shape::SCALAR),
            Extent::Reduced(from_last) => {
                let mut dims = param.to_vec();
                let reduced = dims.len().checked_sub(from_last).and_then(|dim| dims.get_mut(dim));
                reduced.into_iter().for_each(|extent| *extent = 1);
                Shape::new(&dims)
            }
        }
    }

    /// Its dtype for a parameter.
    pub(super) fn dtype(&self, param: DType) -> DType {
        if self.extent == Extent::Scalar { DType::F64 } else { param }
    }

    /// The initial tensor.
    pub(super) fn tensor(&self, param: &Tensor) -> Result<Tensor> {
        let options = (self.dtype(param.dtype()), param.device());
        in_memory_order_of(param, Tensor::full(self.shape(param.shape())?, self.initial, options)?)
    }
}

/// A state in the memory order that a step takes with a parameter: channels-last if it has the shape of one that is.
pub(super) fn in_memory_order_of(param: &Tensor, state: Tensor) -> Result<Tensor> {
    let is_last = param.is_channels_last() && state.shape() == param.shape();
    if is_last { Ok(state.channels_last()?.detach()) } else { Ok(state) }
}

/// A parameter in a step, for [`UpdateRule::update`]. Half-precision parameters are passed in `f32`, and rounded
/// afterwards.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// The parameter, to update in place.
    pub param: &'a Tensor,
    /// Its gradient, of its shape and dtype.
    pub grad: &'a Tensor,
    /// Its [`UpdateRule::states`] in order, to update in place: scalars in `f64`, others in its dtype.
    pub states: &'a [Tensor],
    /// The dtype in which the parameter is stored, which differs from its dtype here if it is half precision.
    pub dtype: DType,
    /// The learning rate: one `f64` on the parameter's device, where it may change between steps.
    pub lr: &'a Tensor,
    /// The number of this step, starting at 1: one `f64` on the parameter's device.
    pub step: &'a Tensor,
}

impl Update<'_> {
    /// A scalar that was computed in `f64`, in the parameter's dtype.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn number(&self, number: &Tensor) -> Result<Tensor> {
        number.to_dtype(self.param.dtype())
    }

    /// Applies decoupled weight decay to the parameter, times the learning rate.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn decay(&self, weight_decay: f64) -> Result<()> {
        // Without decay an infinite parameter must not become NaN.
        if weight_decay == 0.0 {
            return Ok(());
        }
        self.param.mul_(&self.number(&self.lr.mul(-weight_decay)?.add(1.0)?)?)
    }

    /// `base` to the power of [`step`](Update::step), in `f64`.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn power_of_step(&self, base: f64) -> Result<Tensor> {
        self.step.full_like(base)?.pow(self.step)
    }

    /// The gradient as most rules use it: negated when maximizing, with an L2 penalty.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn gradient(&self, weight_decay: f64, maximize: bool) -> Result<Tensor> {
        let grad = if maximize { self.grad.neg()? } else { self.grad.clone() };
        // Without decay an infinite parameter must not make the gradient NaN.
        if weight_decay == 0.0 { Ok(grad) } else { grad.add(&self.param.mul(weight_decay)?) }
    }
}

/// `average = weight * average + (1 - weight) * value`, the moving average of the rules.
pub(super) fn keep(average: &Tensor, weight: f64, value: &Tensor) -> Result<()> {
    average.mul_(weight)?;
    average.add_(&value.mul(1.0 - weight)?)
}

fn invalid(op: &'static str, what: &str, value: impl Debug, expected: &str) -> Error {
    Error::argument(op, format!("{what} {value:?} is invalid: it must be {expected}"))
}

/// Checks that a hyperparameter is finite and not negative.
///
/// # Errors
/// If it is not.
pub fn non_negative(op: &'static str, what: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 { Ok(()) } else { Err(invalid(op, what, value, "finite and not negative")) }
}

/// Checks that a hyperparameter is finite.
///
/// # Errors
/// If it is not.
pub fn finite(op: &'static str, what: &str, value: f64) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(invalid(op, what, value, "finite")) }
}

/// Checks that decay rates are in `0 <= beta < 1`.
///
/// # Errors
/// If one is not.
pub fn shares(op: &'static str, what: &str, (a, b): (f64, f64)) -> Result<()> {
    if [a, b].iter().all(|share| (0.0..1.0).contains(share)) {
        return Ok(());
    }
    Err(invalid(op, what, (a, b), "in [0, 1)"))
}

/// Declares the hyperparameters of an optimizer: a struct with PyTorch's names and defaults and a method for each, and
/// its implementation of [`Hyperparameters`](crate::optim::Hyperparameters). Each is an `f64`, a `usize`, a `bool`, a
/// `pair` or `triple` of `f64`, an `optional_pair`, whose first number may be `None`, or a type that implements
/// [`Choice`](crate::optim::Choice). [`UpdateRule`](crate::optim::UpdateRule) has an example.
#[macro_export]
macro_rules! hyperparameters {
    (
        $optimizer:literal $name:ident, lr = $lr:expr,
        { $($field:ident: $ty:ident = $default:expr, $doc:literal;)* }
    ) => {
        #[doc = concat!("The hyperparameters of ", $optimizer, ". Converts from a learning rate alone.")]
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
            /// This learning rate, with the defaults for the rest.
            #[must_use]
            pub fn new(lr: f64) -> Self {
                lr.into()
            }

            /// Sets the learning rate.
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
    (@type optional_pair) => { (Option<f64>, f64) };
    (@type triple) => { (f64, f64, f64) };
    (@type $ty:ident) => { $ty };
    (@value $place:expr, f64) => { $crate::optim::Value::Number($place) };
    (@value $place:expr, bool) => { $crate::optim::Value::Flag($place) };
    (@value $place:expr, usize) => { $crate::optim::Value::Count($place) };
    (@value $place:expr, pair) => { $crate::optim::Value::Pair($place) };
    (@value $place:expr, optional_pair) => { $crate::optim::Value::OptionalPair($place) };
    (@value $place:expr, triple) => { $crate::optim::Value::Triple($place) };
    (@value $place:expr, $choice:ident) => { $crate::optim::Value::Choice($place) };
}
