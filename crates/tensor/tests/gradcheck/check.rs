//! The lines of the tables: an operation, operands and a call.

use kiln_tensor::{Result, Tensor};

use super::inputs::Values;

/// A line of the table: an operation, what it is given, and a call.
pub struct Check {
    /// Its name in the table of operations.
    pub op: &'static str,
    /// Sets of shapes of the operands.
    pub shapes: &'static [&'static [&'static [usize]]],
    /// What the operands hold.
    pub values: Values,
    /// The call, given the operands.
    pub call: fn(&[Tensor]) -> Result<Tensor>,
}

/// An operand of two dimensions, of none, and without elements.
pub const ANY: &[&[&[usize]]] = &[&[&[2, 3]], &[&[]], &[&[0, 3]]];
/// Two operands: equal, broadcast in both directions, scalars, without elements.
pub const PAIRS: &[&[&[usize]]] =
    &[&[&[2, 3], &[2, 3]], &[&[2, 3], &[3]], &[&[2, 1], &[1, 3]], &[&[], &[2]], &[&[], &[]], &[&[0, 3], &[3]]];
