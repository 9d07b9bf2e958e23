//! `index_select`, `index_add`, `gather` and `scatter`. Only kernels read indices, so an index out of range is reported
//! when the host next waits for the device.

use kiln_backend::{
    Checked, GatherArgs, IndexAddArgs, IndexBackend, IndexSelectArgs, Layout, MAX_RANK, Operand, Result, ScatterArgs,
    ScatterMode, index_axis, index_vector_strides,
};

use super::{
    launch::{Tag, launch},
    values::{pattern, rounded_number},
};
use crate::{
    device::{CudaBackend, Device},
    params::{self, Gather, Grid, Lines, Place, Scatter, Status},
    view::{Access, Tensor},
};

/// Threads that keep a device busy; a scatter with fewer lines divides each among several threads.
const BUSY: u64 = 4096;
/// Sums of half precision that are accumulated at a time, in `f32`: 128 MiB of memory, or one line if that is longer.
const SUMS: u64 = 1 << 25;
/// The most threads that share a line, each of which reads all its indices.
const MAX_PARTS: u64 = 256;

/// A layout's strides with another one along `dim`.
fn with_stride(layout: &Layout, dim: usize, stride: isize) -> [isize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    strides[..layout.rank()].copy_from_slice(layout.strides());
    strides[dim] = stride;
    strides
}

impl IndexBackend for CudaBackend {
    fn index_select(&self, args: Checked<IndexSelectArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "index_select" };
        let IndexSelectArgs { x, dim, index, out } = args.into_inner();
        let (x, index, out) = (access.read(x)?, access.read(index)?, access.write(out)?);
        let strides = index_vector_strides(dim, index.layout);
        self.0.take(access.op, x, dim, Place { address: index.address, strides: &strides }, out)
    }

    fn gather(&self, args: Checked<GatherArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "gather" };
        let GatherArgs { x, dim, index, out } = args.into_inner();
        let (x, index, out) = (access.read(x)?, access.read(index)?, access.write(out)?);
        self.0.take(access.op, x, dim, index.place(), out)
    }

    fn index_add(&self, args: Checked<IndexAddArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "index_add" };
        let IndexAddArgs { x, dim, index, out } = args.into_inner();
        let (x, index, out) = (access.read(x)?, access.read(index)?, access.write(out)?);
        let strides = index_vector_strides(dim, index.layout);
        let index = Place { address: index.address, strides: &strides };
        let (positions, x) = (Positions { dims: x.layout.dims(), dim, index }, (Some(x.place()), 0));
        self.0.put(access.op, ScatterMode::Add, positions, x, out)
    }

    fn scatter(&self, args: Checked<ScatterArgs>) -> Result<()> {
        let ScatterArgs { mode, x, dim, index, out } = args.into_inner();
        let access = Access { device: self.0, op: mode.name() };
        let (index, out) = (access.read(index)?, access.write(out)?);
        let x = match x {
            Operand::Tensor(x) => (Some(access.read(x)?.place()), 0),
            Operand::Scalar(value) => match mode {
                ScatterMode::Set => (None, pattern(out.dtype, value)),
                _ => (None, rounded_number(out.dtype, value)),
            },
        };
        let positions = Positions { dims: index.layout.dims(), dim, index: index.place() };
        self.0.put(access.op, mode, positions, x, out)
    }
}

/// The positions that a scatter visits: extents, the indexed dimension, and an index for each position.
#[derive(Clone, Copy)]
struct Positions<'a> {
    dims: &'a [usize],
    dim: usize,
    index: Place<'a>,
}

impl Device {
    /// Gathers: copies from the indexed positions of `x` to `out`.
    fn take(&self, op: &'static str, x: Tensor, dim: usize, index: Place, out: Tensor) -> Result<()> {
        let (size, stride) = index_axis(x.layout, dim);
        let still = with_stride(x.layout, dim, 0);
        let places = [Some(index), Some(out.place()), Some(Place { address: x.address, strides: &still })];
        let grid = Grid::<3>::new(out.layout.dims(), places);
        if grid.numel == 0 {
            return Ok(());
        }
        let (tag, blocks, status) = (Tag::bits(x.dtype), params::blocks(grid.numel), self.status(Status::INDEX, op));
        let params = Gather { grid, size: size as u64, stride: stride as i64 };
        launch!(self, GATHER, "take", tag, blocks, params, index.address, out.address, x.address, status)
    }

    /// Scatters: writes each position's element to `out`, or combines it with what is there.
    fn put(
        &'static self,
        op: &'static str,
        mode: ScatterMode,
        Positions { dims, dim, index }: Positions,
        (x, number): (Option<Place>, u64),
        out: Tensor,
    ) -> Result<()> {
        let (kernel, tag) = match mode {
            ScatterMode::Set => ("set", Tag::bits(out.dtype)),
            ScatterMode::Add => ("add", Tag::of(out.dtype)),
            ScatterMode::Mul => ("mul", Tag::of(out.dtype)),
            ScatterMode::Min => ("min", Tag::of(out.dtype)),
            ScatterMode::Max => ("max", Tag::of(out.dtype)),
        };
        let Lines { lines, n, strides, .. } = Lines::<3>::new(dims, dim, [Some(index), x, Some(out.place())]);
        if lines.numel == 0 || n == 0 {
            return Ok(());
        }
        let size = index_axis(out.layout, dim).0 as u64;
        // Parts own disjoint indices, so their number does not change the result.
        let parts = if n == 1 { 1 } else { (BUSY / lines.numel).clamp(1, size.clamp(1, MAX_PARTS)) };
        let (blocks, status) = (params::blocks(lines.numel * parts), self.status(Status::SCATTER, op));
        let params = Scatter { lines, n, strides, size, parts };
        let x = x.map_or(0, |place| place.address);
        // A single term needs no `f32` buffer: it is added and rounded once.
        if mode == ScatterMode::Add && out.dtype.is_half() && n > 1 {
            let together = (SUMS / size).clamp(1, lines.numel);
            let sums = self.scratch((together * size) as usize * size_of::<f32>())?;
            for first in (0..lines.numel).step_by(together as usize) {
                let count = together.min(lines.numel - first);
                let blocks = params::blocks(count * parts);
                let (index, out, sums) = (index.address, out.address, sums.address());
                launch!(
                    self,
                    SCATTER_HALF,
                    kernel,
                    tag,
                    blocks,
                    params,
                    first,
                    count,
                    index,
                    x,
                    out,
                    sums,
                    number,
                    status
                )?;
            }
            return Ok(());
        }
        launch!(self, SCATTER, kernel, tag, blocks, params, index.address, x, out.address, number, status)
    }
}

#[cfg(test)]
mod tests {
    use kiln_backend::Shape;

    use super::*;

    #[test]
    fn a_stride_is_replaced() {
        let layout = Layout::contiguous(Shape::new(&[5, 3]).unwrap());
        assert_eq!(with_stride(&layout, 1, 0)[..2], [3, 0]);
    }
}
