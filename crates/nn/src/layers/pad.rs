//! Padding layers.

use kiln_derive::located;
use kiln_tensor::{Error, PadMode, Result, Tensor};

use super::sizes::{python_float, tuple};
use crate::module::Module;

/// How many elements to add on each side: one number for all sides, or a list that starts with the last dimension,
/// `[left, right, top, bottom, front, back]`. Negative numbers remove elements.
pub trait PadAmounts<const N: usize> {
    /// A number for each side.
    fn amounts(self) -> [i64; N];
}

impl<const N: usize> PadAmounts<N> for i64 {
    fn amounts(self) -> [i64; N] {
        [self; N]
    }
}

impl<const N: usize> PadAmounts<N> for [i64; N] {
    fn amounts(self) -> [i64; N] {
        self
    }
}

/// Pads the last dimensions, one per pair of amounts, of a sample or a batch of samples with channels.
fn pad(layer: &'static str, x: &Tensor, amounts: &[i64], mode: PadMode) -> Result<Tensor> {
    let spatial = amounts.len() / 2;
    if x.rank() != spatial + 1 && x.rank() != spatial + 2 {
        let takes = ["[N, C, L] or [C, L]", "[N, C, H, W] or [C, H, W]", "[N, C, D, H, W] or [C, D, H, W]"];
        return Err(Error::shape(layer, takes[spatial - 1], x.shape()));
    }
    x.pad(amounts, mode)
}

macro_rules! pads {
    ($($mode:ident $what:literal $($name:ident $sides:literal)*;)*) => {$($(
        #[doc = concat!("Pads the last dimensions with ", $what, ".")]
        ///
        #[doc = concat!("(<https://docs.pytorch.org/docs/stable/generated/torch.nn.", stringify!($name), ".html>)")]
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            #[module(skip, save)]
            padding: [i64; $sides],
        }

        impl $name {
            /// A layer that adds this many elements on each side.
            #[must_use]
            pub fn new(padding: impl PadAmounts<$sides>) -> $name {
                $name { padding: padding.amounts() }
            }

            fn describe(&self) -> String {
                tuple(&self.padding)
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                pad(stringify!($name), x, &self.padding, pads!(@ $mode))
            }
        }
    )*)*};
    (@ Zero) => { PadMode::Constant(0.0) };
    (@ $mode:ident) => { PadMode::$mode };
}
pads! {
    Zero "zeros" ZeroPad1d 2 ZeroPad2d 4 ZeroPad3d 6;
    Reflect "elements mirrored at the edge, without repeating the edge" ReflectionPad1d 2 ReflectionPad2d 4 ReflectionPad3d 6;
    Replicate "copies of the edge" ReplicationPad1d 2 ReplicationPad2d 4 ReplicationPad3d 6;
    Circular "elements of the opposite side" CircularPad1d 2 CircularPad2d 4 CircularPad3d 6;
}

macro_rules! constant_pads {
    ($($name:ident $sides:literal)*) => {$(
        /// Pads the last dimensions with one value.
        ///
        #[doc = concat!("(<https://docs.pytorch.org/docs/stable/generated/torch.nn.", stringify!($name), ".html>)")]
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            #[module(skip, save)]
            padding: [i64; $sides],
            value: f64,
        }

        impl $name {
            /// A layer that adds this many elements of this value on each side.
            #[must_use]
            pub fn new(padding: impl PadAmounts<$sides>, value: f64) -> $name {
                $name { padding: padding.amounts(), value }
            }

            fn describe(&self) -> String {
                format!("padding={}, value={}", tuple(&self.padding), python_float(self.value))
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                pad(stringify!($name), x, &self.padding, PadMode::Constant(self.value))
            }
        }
    )*};
}
constant_pads!(ConstantPad1d 2 ConstantPad2d 4 ConstantPad3d 6);
