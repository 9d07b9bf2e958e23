//! Sorting and binary search.

use kiln_backend::{DType, Error, MAX_RANK, Result, SortBackend, View, ViewMut, has_dim};

use super::launch::{Tag, launch};
use crate::{
    device::CudaBackend,
    launch::Config,
    params::{self, Grid, Lines, Place, SORT_TILE, Search, Sort},
    view::Tensor,
};

/// Bytes of an entry: a key and a position.
const ENTRY: usize = 16;
/// Threads that sort a tile.
const TILE_THREADS: u32 = 512;

impl SortBackend for CudaBackend {
    fn sort(&self, x: View, dim: usize, descending: bool, values: ViewMut, indices: ViewMut) -> Result<()> {
        let device = self.0;
        const OP: &str = "sort";
        let x = Tensor::read(device, OP, x)?;
        has_dim(OP, x.layout, dim)?;
        let values = Tensor::write(device, OP, values)?.of(OP, x.dtype)?.shaped(OP, x.layout)?;
        let indices = Tensor::write(device, OP, indices)?.of(OP, DType::I64)?.shaped(OP, x.layout)?;
        let places = [Some(x.place()), Some(values.place()), Some(indices.place())];
        let Lines { lines, n, strides, .. } = Lines::<3>::new(x.layout.dims(), dim, places);
        let count = lines.numel;
        let entries = count.saturating_mul(n);
        if entries == 0 {
            return Ok(());
        }
        let params = Sort { lines, n, strides, descending: u32::from(descending), unused: 0 };
        let bytes = (entries as usize).saturating_mul(ENTRY);
        let merged = n > SORT_TILE;
        let (first, second) = (device.scratch(bytes)?, device.scratch(if merged { bytes } else { 0 })?);
        let (mut from, mut to) = (first.address(), second.address());
        let tiles = params::limited_blocks(count * n.div_ceil(SORT_TILE), u64::MAX);
        let config = Config { grid: [tiles, 1, 1], block: [TILE_THREADS, 1, 1] };
        launch!(device, SORT_TILE, "keys", Tag::of(x.dtype), config, params, x.address, from)?;
        let blocks = params::blocks(entries);
        let mut run = SORT_TILE;
        while run < n {
            launch!(device, SORT_MERGE, "runs", Tag::bits(DType::I64), blocks, count, n, run, from, to)?;
            (from, to) = (to, from);
            run *= 2;
        }
        let tag = Tag::bits(x.dtype);
        launch!(device, SORT_WRITE, "out", tag, blocks, params, from, x.address, values.address, indices.address)
    }

    fn searchsorted(&self, sorted: View, values: View, right: bool, out: ViewMut) -> Result<()> {
        let device = self.0;
        const OP: &str = "searchsorted";
        let sorted = Tensor::read(device, OP, sorted)?;
        let values = Tensor::read(device, OP, values)?.of(OP, sorted.dtype)?;
        let out = Tensor::write(device, OP, out)?.of(OP, DType::I64)?.shaped(OP, values.layout)?;
        let Some(dim) = sorted.layout.rank().checked_sub(1) else {
            return Err(Error::shape(OP, "a sorted sequence", sorted.layout.shape()));
        };
        if values.layout.rank() != dim + 1 || values.layout.dims()[..dim] != sorted.layout.dims()[..dim] {
            let expected = "all extents but the last must be equal";
            return Err(Error::shapes(OP, sorted.layout.shape(), values.layout.shape(), expected));
        }
        let mut strides = [0; MAX_RANK];
        strides[..dim].copy_from_slice(&sorted.layout.strides()[..dim]);
        let lines = Place { address: sorted.address, strides: &strides };
        let grid = Grid::<3>::new(values.layout.dims(), [Some(lines), Some(values.place()), Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let (blocks, tag) = (params::blocks(grid.numel), Tag::of(sorted.dtype));
        let params = Search {
            grid,
            n: sorted.layout.dims()[dim] as u64,
            stride: sorted.layout.strides()[dim] as i64,
            right: u32::from(right),
            unused: 0,
        };
        launch!(device, SEARCHSORTED, "find", tag, blocks, params, sorted.address, values.address, out.address)
    }
}
