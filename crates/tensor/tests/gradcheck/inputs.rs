//! Values and memory layouts of the operands.

use kiln_tensor::{DType, Device, Result, Tensor};

/// Which numbers an operation is checked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// In -2..2, at least 0.05 away from the halves of integers, where functions jump or bend.
    Any,
    /// In 0.3..2.3.
    Positive,
    /// In 1.3..3.3.
    AboveOne,
    /// In -0.9..0.9.
    Unit,
    /// In 0.1..0.9.
    Probability,
    /// All different by 0.1 or more, also between operands: for what picks the largest.
    Distinct,
}

impl Values {
    /// Operand number `operand`.
    pub fn draw(self, operand: usize, dims: &[usize]) -> Tensor {
        let count: usize = dims.iter().product();
        let values: Vec<f64> = (0..count).map(|i| self.value(operand, i, count)).collect();
        Tensor::from_vec(values, dims, Device::Cpu).unwrap()
    }

    fn value(self, operand: usize, i: usize, count: usize) -> f64 {
        // Digits of multiples of the golden ratio: spread evenly, in no order.
        let unit = ((i + 1 + 31 * operand) as f64 * 0.618_033_988_749_894_9).fract();
        match self {
            Values::Any => {
                let halves = unit * 8.0 - 4.0;
                (halves.floor() + 0.1 + 0.8 * halves.fract().abs()) / 2.0
            }
            Values::Positive => 0.3 + 2.0 * unit,
            Values::AboveOne => 1.3 + 2.0 * unit,
            Values::Unit => 1.8 * unit - 0.9,
            Values::Probability => 0.1 + 0.8 * unit,
            Values::Distinct => {
                // 7 has no divisor in common with the counts used, so this permutes.
                let rank = if count.is_multiple_of(7) { i } else { i * 7 % count };
                rank as f64 * 0.4 - 0.2 * count as f64 + 0.13 * operand as f64 + 0.05
            }
        }
    }
}

/// How an operand's elements are arranged in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryLayout {
    /// In row-major order.
    Contiguous,
    /// In column-major order.
    Transposed,
    /// Every other element of a larger tensor, not from its start.
    Sliced,
    /// One row repeated, with stride 0.
    Broadcast,
}

impl MemoryLayout {
    pub const ALL: [MemoryLayout; 4] =
        [MemoryLayout::Contiguous, MemoryLayout::Transposed, MemoryLayout::Sliced, MemoryLayout::Broadcast];

    /// The operand in this layout; `None` if it cannot have it.
    pub fn arrange(self, values: &Tensor, which: Values) -> Result<Option<Tensor>> {
        let dims = values.dims().to_vec();
        let reversed: Vec<usize> = (0..dims.len()).rev().collect();
        Ok(Some(match self {
            MemoryLayout::Contiguous => values.copy()?,
            MemoryLayout::Transposed if dims.len() < 2 => return Ok(None),
            MemoryLayout::Transposed => values.permute(&reversed)?.copy()?.permute(&reversed)?,
            MemoryLayout::Sliced => match dims.split_last() {
                None => {
                    let room = Tensor::full(3, 9.0, DType::F64)?;
                    room.narrow(0, 1, 1)?.copy_(values)?;
                    room.select(0, 1)?
                }
                Some((&last, front)) => {
                    let room = Tensor::full([front, &[2 * last + 3]].concat(), 9.0, DType::F64)?;
                    let place = room.slice(-1, 2, 2 + 2 * last as i64, 2)?;
                    place.copy_(values)?;
                    place
                }
            },
            // Rows that are equal are not distinct.
            MemoryLayout::Broadcast if dims.first().is_none_or(|&rows| rows < 2) || which == Values::Distinct => {
                return Ok(None);
            }
            MemoryLayout::Broadcast => values.narrow(0, 0, 1)?.expand(&dims[..])?,
        }))
    }
}
