//! Settings for height and width, and their format as in Python.

use std::fmt;

use kiln_tensor::Result;

use serde_json::Value;

use crate::saved::{Describing, Restoring, Saved};

/// One number for both height and width, or one for each: `3`, `(3, 2)`, `[3, 2]`. It prints as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// The same for both.
    Both(usize),
    /// Height, width.
    Each(usize, usize),
}

impl Pair {
    /// Height and width.
    #[must_use]
    pub fn get(self) -> [usize; 2] {
        match self {
            Pair::Both(n) => [n; 2],
            Pair::Each(h, w) => [h, w],
        }
    }
}

/// Saved as it was given: a number, or a list of two.
impl Saved for Pair {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        match self {
            Pair::Both(n) => n.save(at),
            Pair::Each(h, w) => [*h, *w].save(at),
        }
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Pair> {
        if value.is_array() {
            <[usize; 2]>::restore(value, at).map(Pair::from)
        } else {
            usize::restore(value, at).map(Pair::Both)
        }
    }
}

impl From<usize> for Pair {
    fn from(n: usize) -> Pair {
        Pair::Both(n)
    }
}

impl From<(usize, usize)> for Pair {
    fn from((h, w): (usize, usize)) -> Pair {
        Pair::Each(h, w)
    }
}

impl From<[usize; 2]> for Pair {
    fn from([h, w]: [usize; 2]) -> Pair {
        Pair::Each(h, w)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pair::Both(n) => write!(f, "{n}"),
            Pair::Each(h, w) => write!(f, "({h}, {w})"),
        }
    }
}

/// The output size of adaptive pooling: one number for both height and width, or one for each; `None` keeps the input's
/// extent: `7`, `(7, 7)`, `(None, Some(7))`. It prints as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdaptiveSize {
    /// The same for both.
    Both(Option<usize>),
    /// Height, width.
    Each(Option<usize>, Option<usize>),
}

impl AdaptiveSize {
    /// Height and width.
    #[must_use]
    pub fn get(self) -> [Option<usize>; 2] {
        match self {
            AdaptiveSize::Both(n) => [n; 2],
            AdaptiveSize::Each(h, w) => [h, w],
        }
    }
}

/// Saved as it was given: a number or null, or a list of two.
impl Saved for AdaptiveSize {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        match self {
            AdaptiveSize::Both(n) => n.save(at),
            AdaptiveSize::Each(h, w) => [*h, *w].save(at),
        }
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<AdaptiveSize> {
        if value.is_array() {
            <[Option<usize>; 2]>::restore(value, at).map(|[h, w]| AdaptiveSize::Each(h, w))
        } else {
            Option::restore(value, at).map(AdaptiveSize::Both)
        }
    }
}

macro_rules! whole {
    ($($ty:ty,)*) => {$(
        impl From<$ty> for AdaptiveSize {
            fn from(size: $ty) -> AdaptiveSize {
                match Pair::from(size) {
                    Pair::Both(n) => AdaptiveSize::Both(Some(n)),
                    Pair::Each(h, w) => AdaptiveSize::Each(Some(h), Some(w)),
                }
            }
        }
    )*};
}
whole!(usize, (usize, usize), [usize; 2],);

impl From<(Option<usize>, Option<usize>)> for AdaptiveSize {
    fn from((h, w): (Option<usize>, Option<usize>)) -> AdaptiveSize {
        AdaptiveSize::Each(h, w)
    }
}

impl fmt::Display for AdaptiveSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |n: &Option<usize>| n.map_or_else(|| "None".to_owned(), |n| n.to_string());
        match self {
            AdaptiveSize::Both(n) => f.write_str(&text(n)),
            AdaptiveSize::Each(h, w) => write!(f, "({}, {})", text(h), text(w)),
        }
    }
}

/// Formats two numbers as a Python tuple.
pub(super) fn pair([a, b]: [usize; 2]) -> String {
    format!("({a}, {b})")
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

#[cfg(test)]
mod tests {
    use kiln_tensor::{Device, Tensor};

    use super::*;
    use crate::{layers::pool::AdaptiveAvgPool2d, module::Module};

    #[test]
    fn none_keeps_an_extent() -> Result<()> {
        let images = Tensor::ones([1, 2, 5, 6], Device::Cpu)?;
        let pool = AdaptiveAvgPool2d::new((None, Some(3)));
        assert_eq!((pool.forward(&images)?.dims(), pool.output_size()), (&[1, 2, 5, 3][..], [None, Some(3)]));
        assert_eq!(pool.to_string(), "AdaptiveAvgPool2d(output_size=(None, 3))");
        assert_eq!(AdaptiveAvgPool2d::new(7).to_string(), "AdaptiveAvgPool2d(output_size=7)");
        Ok(())
    }

    #[test]
    fn floats_print_as_in_python() {
        for (value, text) in [(1e-5, "1e-05"), (0.1, "0.1"), (1.0, "1.0"), (1.5e-12, "1.5e-12"), (1e16, "1e+16")] {
            assert_eq!(python_float(value), text);
        }
    }
}
