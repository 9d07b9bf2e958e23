//! Settings for each dimension of images, signals and volumes, and their format as in Python.

use std::fmt;

use kiln_tensor::Result;

use serde_json::Value;

use crate::saved::{Describing, Restoring, Saved};

/// One number for all `N` dimensions, or one for each (depth, height, width): `3`, `(3, 2)`, `[3, 2]`. It prints as it was
/// given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes<const N: usize> {
    /// The same for all.
    All(usize),
    /// Each on its own.
    Each([usize; N]),
}

/// One number for both height and width, or one for each.
pub type Pair = Sizes<2>;

impl<const N: usize> Sizes<N> {
    /// The number of each dimension.
    #[must_use]
    pub fn get(self) -> [usize; N] {
        match self {
            Sizes::All(n) => [n; N],
            Sizes::Each(each) => each,
        }
    }
}

/// Saved as it was given: a number, or a list.
impl<const N: usize> Saved for Sizes<N> {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        match self {
            Sizes::All(n) => n.save(at),
            Sizes::Each(each) => each.save(at),
        }
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Sizes<N>> {
        if value.is_array() {
            <[usize; N]>::restore(value, at).map(Sizes::Each)
        } else {
            usize::restore(value, at).map(Sizes::All)
        }
    }
}

impl<const N: usize> From<usize> for Sizes<N> {
    fn from(n: usize) -> Sizes<N> {
        Sizes::All(n)
    }
}

impl<const N: usize> From<[usize; N]> for Sizes<N> {
    fn from(each: [usize; N]) -> Sizes<N> {
        Sizes::Each(each)
    }
}

impl From<(usize, usize)> for Sizes<2> {
    fn from((h, w): (usize, usize)) -> Sizes<2> {
        Sizes::Each([h, w])
    }
}

impl From<(usize, usize, usize)> for Sizes<3> {
    fn from((d, h, w): (usize, usize, usize)) -> Sizes<3> {
        Sizes::Each([d, h, w])
    }
}

impl<const N: usize> fmt::Display for Sizes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::All(n) => write!(f, "{n}"),
            Sizes::Each(each) => f.write_str(&tuple(each)),
        }
    }
}

/// One value for all dimensions after the channels, however many there are, or one for each. It prints as it was given.
#[derive(Clone, Debug, PartialEq)]
pub enum PerDim<T> {
    /// The same for all.
    All(T),
    /// Each on its own.
    Each(Vec<T>),
}

impl<T> PerDim<T> {
    /// One value, or one for each dimension.
    #[must_use]
    pub fn values(&self) -> &[T] {
        match self {
            PerDim::All(value) => std::slice::from_ref(value),
            PerDim::Each(each) => each,
        }
    }

    /// Formats it as Python's value or tuple.
    pub(super) fn shown(&self, value: impl Fn(&T) -> String) -> String {
        match self {
            PerDim::All(all) => value(all),
            PerDim::Each(each) => tuple(&each.iter().map(value).collect::<Vec<_>>()),
        }
    }
}

/// Saved as it was given: a number, or a list.
impl<T: Saved> Saved for PerDim<T> {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        match self {
            PerDim::All(value) => value.save(at),
            PerDim::Each(each) => each.save(at),
        }
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<PerDim<T>> {
        if value.is_array() {
            Vec::restore(value, at).map(PerDim::Each)
        } else {
            T::restore(value, at).map(PerDim::All)
        }
    }
}

impl<T> From<T> for PerDim<T> {
    fn from(value: T) -> PerDim<T> {
        PerDim::All(value)
    }
}

impl<T, const N: usize> From<[T; N]> for PerDim<T> {
    fn from(each: [T; N]) -> PerDim<T> {
        PerDim::Each(each.into())
    }
}

impl<T> From<(T, T)> for PerDim<T> {
    fn from((h, w): (T, T)) -> PerDim<T> {
        PerDim::Each(vec![h, w])
    }
}

impl<T> From<(T, T, T)> for PerDim<T> {
    fn from((d, h, w): (T, T, T)) -> PerDim<T> {
        PerDim::Each(vec![d, h, w])
    }
}

/// The output size of adaptive pooling in `N` dimensions: one number for all, or one for each; `None` keeps the input's
/// extent: `7`, `(7, 7)`, `(None, Some(7))`. It prints as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdaptiveSize<const N: usize = 2> {
    /// The same for all.
    All(Option<usize>),
    /// Each on its own.
    Each([Option<usize>; N]),
}

impl<const N: usize> AdaptiveSize<N> {
    /// The extent of each dimension.
    #[must_use]
    pub fn get(self) -> [Option<usize>; N] {
        match self {
            AdaptiveSize::All(n) => [n; N],
            AdaptiveSize::Each(each) => each,
        }
    }
}

/// Saved as it was given: a number or null, or a list.
impl<const N: usize> Saved for AdaptiveSize<N> {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        match self {
            AdaptiveSize::All(n) => n.save(at),
            AdaptiveSize::Each(each) => each.save(at),
        }
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<AdaptiveSize<N>> {
        if value.is_array() {
            <[Option<usize>; N]>::restore(value, at).map(AdaptiveSize::Each)
        } else {
            Option::restore(value, at).map(AdaptiveSize::All)
        }
    }
}

impl<const N: usize, T: Into<Sizes<N>>> From<T> for AdaptiveSize<N> {
    fn from(size: T) -> AdaptiveSize<N> {
        match size.into() {
            Sizes::All(n) => AdaptiveSize::All(Some(n)),
            Sizes::Each(each) => AdaptiveSize::Each(each.map(Some)),
        }
    }
}

impl From<(Option<usize>, Option<usize>)> for AdaptiveSize<2> {
    fn from((h, w): (Option<usize>, Option<usize>)) -> AdaptiveSize<2> {
        AdaptiveSize::Each([h, w])
    }
}

impl From<(Option<usize>, Option<usize>, Option<usize>)> for AdaptiveSize<3> {
    fn from((d, h, w): (Option<usize>, Option<usize>, Option<usize>)) -> AdaptiveSize<3> {
        AdaptiveSize::Each([d, h, w])
    }
}

impl<const N: usize> fmt::Display for AdaptiveSize<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |n: &Option<usize>| n.map_or_else(|| "None".to_owned(), |n| n.to_string());
        match self {
            AdaptiveSize::All(n) => f.write_str(&text(n)),
            AdaptiveSize::Each(each) => f.write_str(&tuple(&each.each_ref().map(text))),
        }
    }
}

/// Formats values as a Python tuple: `(3, 3)`, `(3,)`.
pub(super) fn tuple(values: &[impl ToString]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    format!("({}{})", values.join(", "), if values.len() == 1 { "," } else { "" })
}

/// Formats a truth value as Python does.
pub(super) fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// Formats a float as Python does: `0.1`, `1.0`, `1e-05`.
pub(super) fn python_float(value: f64) -> String {
    let plain = value == 0.0 || !value.is_finite() || (1e-4..1e16).contains(&value.abs());
    if plain {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, digits_of) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{digits}e{sign}{digits_of:0>2}")
        }
        None => text,
    }
}
