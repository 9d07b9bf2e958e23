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
