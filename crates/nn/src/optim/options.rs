//! The hyper-parameters of each optimizer: their defaults (PyTorch's), what is valid, and the update rule
//! that they make.

use std::fmt::Debug;

use kiln_derive::located;
use kiln_tensor::{Error, OptimRule, Result};

use super::{invalid, non_negative};

/// The hyper-parameters of an optimizer. Implemented by [`SGDOptions`] and its like.
pub trait OptimOptions: Copy + Debug + Send + Sync + 'static {
    /// The optimizer's name.
    const NAME: &'static str;

    /// The update rule.
    fn rule(&self) -> OptimRule;

    /// What PyTorch calls the rule's state tensors, in the rule's order.
    fn state_names(&self) -> Vec<&'static str>;

    /// What state tensors are filled with at first.
    fn initial_state(&self) -> f64 {
        0.0
    }

    /// The learning rate.
    fn lr_mut(&mut self) -> &mut f64;

    /// The momentum, or Adam's `beta1`.
    fn momentum_mut(&mut self) -> Option<&mut f64> {
        None
    }

    /// Whether all values make sense.
    ///
    /// # Errors
    /// One does not; the message names it.
    fn validate(&self) -> Result<()>;

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

macro_rules! value {
    ($place:expr, f64) => {
        Value::Number($place)
    };
    ($place:expr, bool) => {
        Value::Flag($place)
    };
    ($place:expr, pair) => {
        Value::Pair($place)
    };
}

macro_rules! type_of {
    (pair) => {
        (f64, f64)
    };
    ($ty:ident) => {
        $ty
    };
}

macro_rules! options {
    (
        $optimizer:literal $name:ident, lr = $lr:expr,
        { $($field:ident: $ty:ident = $default:expr, $doc:literal;)* }
        $($rest:tt)*
    ) => {
        #[doc = concat!("The hyper-parameters of ", $optimizer, ". A number alone, as the learning rate, converts.")]
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name {
            /// The learning rate.
            pub lr: f64,
            $(#[doc = $doc] pub $field: type_of!($ty),)*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { lr: $lr, $($field: $default),* }
            }
        }

        impl From<f64> for $name {
            fn from(lr: f64) -> Self {
                $name { lr, ..$name::default() }
            }
        }

        #[located(site)]
        impl $name {
            /// This learning rate, and PyTorch's defaults for the rest.
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
                pub fn $field(self, $field: type_of!($ty)) -> Self {
                    Self { $field, ..self }
                }
            )*
        }

        impl OptimOptions for $name {
            const NAME: &'static str = $optimizer;

            fn lr_mut(&mut self) -> &mut f64 {
                &mut self.lr
            }

            fn each(&mut self, each: &mut dyn FnMut(&'static str, Value<'_>) -> Result<()>) -> Result<()> {
                each("lr", Value::Number(&mut self.lr))?;
                $(each(stringify!($field), value!(&mut self.$field, $ty))?;)*
                Ok(())
            }

            $($rest)*
        }
    };
}

options! {
    "SGD" SGDOptions, lr = 1e-3,
    {
        momentum: f64 = 0.0, "The share of the last update that the next one keeps: 0 by default.";
        dampening: f64 = 0.0, "The share of the gradient that does not enter the momentum: 0 by default.";
        nesterov: bool = false, "Whether to look ahead by the momentum (Nesterov); off by default.";
        weight_decay: f64 = 0.0, "L2 penalty: 0 by default.";
        maximize: bool = false, "Whether to climb instead of descending.";
    }

    fn rule(&self) -> OptimRule {
        let SGDOptions { momentum, dampening, nesterov, weight_decay, maximize, .. } = *self;
        OptimRule::Sgd { momentum, dampening, nesterov, weight_decay, maximize }
    }

    fn state_names(&self) -> Vec<&'static str> {
        if self.momentum == 0.0 { vec![] } else { vec!["momentum_buffer"] }
    }

    fn momentum_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.momentum)
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "momentum", self.momentum)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        if !self.dampening.is_finite() {
            return Err(invalid(Self::NAME, "dampening", self.dampening, "finite"));
        }
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Error::argument(Self::NAME, "nesterov needs a momentum and no dampening"));
        }
        Ok(())
    }
}

macro_rules! adam {
    ($optimizer:literal $name:ident $decoupled:literal $decay:literal $decay_doc:literal) => {
        options! {
            $optimizer $name, lr = 1e-3,
            {
                betas: pair = (0.9, 0.999), "How much of the first and second moment each step keeps: `(0.9, 0.999)` by default.";
                eps: f64 = 1e-8, "Added to the divisor: 1e-8 by default.";
                weight_decay: f64 = $decay, $decay_doc;
                amsgrad: bool = false, "Whether to divide by the largest second moment so far (Reddi et al., 2018); off by default.";
                maximize: bool = false, "Whether to climb instead of descending.";
            }

            fn rule(&self) -> OptimRule {
                let $name { betas: (beta1, beta2), eps, weight_decay, amsgrad, maximize, .. } = *self;
                OptimRule::Adam { beta1, beta2, eps, weight_decay, decoupled: $decoupled, amsgrad, maximize }
            }

            fn state_names(&self) -> Vec<&'static str> {
                let mut names = vec!["exp_avg", "exp_avg_sq"];
                names.extend(self.amsgrad.then_some("max_exp_avg_sq"));
                names
            }

            fn momentum_mut(&mut self) -> Option<&mut f64> {
                Some(&mut self.betas.0)
            }

            fn validate(&self) -> Result<()> {
                non_negative(Self::NAME, "learning rate", self.lr)?;
                non_negative(Self::NAME, "eps", self.eps)?;
                non_negative(Self::NAME, "weight decay", self.weight_decay)?;
                if ![self.betas.0, self.betas.1].iter().all(|beta| (0.0..1.0).contains(beta)) {
                    return Err(invalid(Self::NAME, "betas", self.betas, "in [0, 1)"));
                }
                Ok(())
            }
        }
    };
}
adam!("Adam" AdamOptions false 0.0 "L2 penalty: 0 by default.");
adam!("AdamW" AdamWOptions true 1e-2 "The share of the parameter, times the learning rate, that is taken away in each step: 0.01 by default.");

options! {
    "RMSprop" RMSpropOptions, lr = 1e-2,
    {
        alpha: f64 = 0.99, "How much of the mean square each step keeps: 0.99 by default.";
        eps: f64 = 1e-8, "Added to the divisor: 1e-8 by default.";
        weight_decay: f64 = 0.0, "L2 penalty: 0 by default.";
        momentum: f64 = 0.0, "The share of the last update that the next one keeps: 0 by default.";
        centered: bool = false, "Whether to divide by the deviation instead of the mean square (Graves, 2013).";
        maximize: bool = false, "Whether to climb instead of descending.";
    }

    fn rule(&self) -> OptimRule {
        let RMSpropOptions { alpha, eps, weight_decay, momentum, centered, maximize, .. } = *self;
        OptimRule::RmsProp { alpha, eps, weight_decay, momentum, centered, maximize }
    }

    fn state_names(&self) -> Vec<&'static str> {
        let mut names = vec!["square_avg"];
        names.extend(self.centered.then_some("grad_avg"));
        names.extend((self.momentum != 0.0).then_some("momentum_buffer"));
        names
    }

    fn momentum_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.momentum)
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "alpha", self.alpha)?;
        non_negative(Self::NAME, "eps", self.eps)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        non_negative(Self::NAME, "momentum", self.momentum)
    }
}

options! {
    "Adagrad" AdagradOptions, lr = 1e-2,
    {
        lr_decay: f64 = 0.0, "The learning rate is divided by `1 + (steps - 1) * lr_decay`: 0 by default.";
        weight_decay: f64 = 0.0, "L2 penalty: 0 by default.";
        initial_accumulator_value: f64 = 0.0, "What the sum of squares begins with: 0 by default.";
        eps: f64 = 1e-10, "Added to the divisor: 1e-10 by default.";
        maximize: bool = false, "Whether to climb instead of descending.";
    }

    fn rule(&self) -> OptimRule {
        let AdagradOptions { lr_decay, weight_decay, eps, maximize, .. } = *self;
        OptimRule::Adagrad { lr_decay, weight_decay, eps, maximize }
    }

    fn state_names(&self) -> Vec<&'static str> {
        vec!["sum"]
    }

    fn initial_state(&self) -> f64 {
        self.initial_accumulator_value
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "learning-rate decay", self.lr_decay)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        non_negative(Self::NAME, "initial accumulator value", self.initial_accumulator_value)?;
        non_negative(Self::NAME, "eps", self.eps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_hyper_parameters_are_named() {
        fn refused(options: impl OptimOptions, what: &str) {
            let error = options.validate().expect_err(what).to_string();
            assert!(error.contains(what), "{error}");
        }
        refused(SGDOptions::new(-0.1), "learning rate -0.1");
        refused(SGDOptions::new(f64::NAN), "learning rate NaN");
        refused(SGDOptions::new(0.1).nesterov(true), "nesterov");
        refused(SGDOptions::new(0.1).momentum(0.9).dampening(0.1).nesterov(true), "nesterov");
        refused(SGDOptions::new(0.1).momentum(-1.0), "momentum");
        refused(AdamOptions::new(0.1).betas((0.9, 1.0)), "betas (0.9, 1.0)");
        refused(AdamWOptions::new(0.1).betas((-0.1, 0.9)), "betas");
        refused(AdamOptions::new(0.1).eps(-1.0), "eps");
        refused(RMSpropOptions::new(0.1).alpha(-0.5), "alpha");
        refused(AdagradOptions::new(0.1).initial_accumulator_value(-1.0), "initial accumulator");
    }

    #[test]
    fn a_state_has_a_name() {
        fn check(options: impl OptimOptions) {
            assert_eq!(options.state_names().len(), options.rule().states(), "{options:?}");
        }
        check(SGDOptions::default());
        check(SGDOptions::default().momentum(0.9));
        for amsgrad in [false, true] {
            check(AdamOptions::default().amsgrad(amsgrad));
            check(AdamWOptions::default().amsgrad(amsgrad));
        }
        for centered in [false, true] {
            for momentum in [0.0, 0.9] {
                check(RMSpropOptions::default().centered(centered).momentum(momentum));
            }
        }
        check(AdagradOptions::default());
    }
}
