//! The lower or upper triangle of matrices.

use kiln_backend::{Checked, Result, TrilTriuArgs, TrilTriuBackend};

use crate::{
    device::CpuBackend,
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
    fn tril_triu(&self, args: Checked<TrilTriuArgs>) -> Result<()> {
        for_all!(args.x.dtype(), T => matrices::<T>(args.into_inner()))
    }
}

fn matrices<T: Stored>(args: TrilTriuArgs) -> Result<()> {
    let op = args.name();
    let TrilTriuArgs { upper, diagonal, x, out } = args;
    let (x, out) = (Source::<T>::new(op, x)?, Target::<T>::new(op, out)?);
    let (&[.., rows, columns], true) = (x.layout().dims(), out.numel() > 0) else { return Ok(()) };
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
    use kiln_backend::{Arguments, DType};

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
                        CpuBackend
                            .tril_triu(
                                TrilTriuArgs { upper, diagonal, x: x.view(), out: out.view_mut() }.checked().unwrap(),
                            )
                            .unwrap();
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
    }
}
