//! Settings for height and width, and how Python prints them.

use std::fmt;

use kiln_tensor::Result;

use crate::saved::{Describing, Restoring, Saved, Value};

/// One number for height and width, or a number each: `3`, `(3, 2)`, `[3, 2]`. It prints as it was given.
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

/// As it was given: a number, or a list of two.
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

/// Two numbers as Python prints a pair.
pub(super) fn pair([a, b]: [usize; 2]) -> String {
    format!("({a}, {b})")
}

/// A truth value as Python prints it.
pub(super) fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// A float as Python prints it: `0.1`, `1.0`, `1e-05`.
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
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        for (value, text) in [(1e-5, "1e-05"), (0.1, "0.1"), (1.0, "1.0"), (1.5e-12, "1.5e-12"), (1e16, "1e+16")] {
            assert_eq!(python_float(value), text);
        }
    }
}
