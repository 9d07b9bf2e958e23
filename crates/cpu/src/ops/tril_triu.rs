//! The lower or upper triangle of matrices.

use kiln_backend::{Error, Result, TrilTriuBackend, View, ViewMut, same_shape};

use crate::{
    CpuBackend,
    engine::{
        par::{self, row_grain},
        reader::Reader,
        tile::{TILE, steps},
        writer::Writer,
    },
    memory::view::{Input, Source, Target},
    numeric::{dispatch::for_all, stored::Stored},
};

impl TrilTriuBackend for CpuBackend {
    fn tril_triu(&self, upper: bool, diagonal: i64, x: View, out: ViewMut) -> Result<()> {
        for_all!(x.dtype(), T => matrices::<T>(upper, diagonal, x, out))
    }
}

fn matrices<T: Stored>(upper: bool, diagonal: i64, x: View, out: ViewMut) -> Result<()> {
    let op = if upper { "triu" } else { "tril" };
    let (x, out) = (Source::<T>::new(op, x)?, Target::<T>::new(op, out)?);
    same_shape(op, &[x.layout(), out.layout()])?;
    let &[.., rows, columns] = x.layout().dims() else {
        return Err(Error::shape(op, "at least 2 dimensions", x.layout().shape()));
    };
    if out.numel() == 0 {
        return Ok(());
    }
    let zero: T::Compute = bytemuck::Zeroable::zeroed();
    let x = Input::Tensor(x);
    par::ranges(out.numel() / columns, row_grain(columns), |range| {
        // SAFETY: rows are disjoint.
        let (mut reader, mut writer) = (Reader::new(&x), unsafe { Writer::new(&out) });
        for row in range {
            // The first column of the upper triangle, or past the last one of the lower.
            let edge = ((row % rows) as i64).saturating_add(diagonal).saturating_add(i64::from(!upper));
            let edge = edge.clamp(0, columns as i64) as usize;
            for part in steps(0..columns, TILE) {
                let positions = row * columns + part.start..row * columns + part.end;
                writer.put(positions.clone(), |out| {
                    out.copy_from_slice(reader.get(positions));
                    let cut = edge.clamp(part.start, part.end) - part.start;
                    let zeroed = if upper { &mut out[..cut] } else { &mut out[cut..] };
                    zeroed.fill(zero);
                });
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use kiln_backend::DType;

    use super::*;
    use crate::testing::{Tensor, layouts, numbers, read_layouts};

    #[test]
    fn keeps_one_side_of_the_diagonal() {
        for dims in [&[4usize, 6][..], &[2, 5, 3], &[3, 1300], &[0, 3], &[2, 0]] {
            let &[.., rows, columns] = dims else { continue };
            for (dtype, diagonal) in
                [(DType::F32, 0), (DType::F16, 1), (DType::I64, -2), (DType::Bool, i64::MAX), (DType::U8, i64::MIN)]
            {
                for from in read_layouts(dims) {
                    let x = Tensor::with_layout(dtype, from, &numbers(from.numel(), 1));
                    for (upper, to) in [(false, layouts(dims)[0]), (true, layouts(dims)[1])] {
                        let mut out = Tensor::with_layout(dtype, to, &vec![1.0; to.numel()]);
                        CpuBackend.tril_triu(upper, diagonal, x.view(), out.view_mut()).unwrap();
                        let keep = |i: usize| {
                            let (row, column) = (i / columns % rows, i % columns);
                            let distance = column as i128 - row as i128;
                            if upper { distance >= i128::from(diagonal) } else { distance <= i128::from(diagonal) }
                        };
                        let want: Vec<f64> =
                            x.values().iter().enumerate().map(|(i, &v)| if keep(i) { v } else { 0.0 }).collect();
                        assert_eq!(out.values(), want);
                    }
                }
            }
        }
        let x = Tensor::new(DType::F32, &[3], &[1.0; 3]);
        assert!(CpuBackend.tril_triu(true, 0, x.view(), Tensor::empty(DType::F32, &[3]).view_mut()).is_err());
    }
}
