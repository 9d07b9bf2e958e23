//! `sort` and `searchsorted`.

use kiln_backend::{Checked, DType, MAX_RANK, Result, SearchsortedArgs, SortArgs, SortBackend};

use super::launch::{Tag, launch};
use crate::{
    device::CudaBackend,
    launch::Config,
    params::{self, Grid, Lines, Place, SORT_TILE, Search, Sort},
    view::Access,
};

/// Bytes of an entry: a key and a position.
const ENTRY: usize = 16;
/// Threads that sort a tile.
const TILE_THREADS: u32 = 512;

impl SortBackend for CudaBackend {
    fn sort(&self, args: Checked<SortArgs>) -> Result<()> {
        let device = self.0;
        let access = Access { device, op: "sort" };
        let SortArgs { x, dim, descending, values, indices } = args.into_inner();
        let (x, values, indices) = (access.read(x)?, access.write(values)?, access.write(indices)?);
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

    fn searchsorted(&self, args: Checked<SearchsortedArgs>) -> Result<()> {
        let device = self.0;
        let access = Access { device, op: "searchsorted" };
        let SearchsortedArgs { sorted, values, right, out } = args.into_inner();
        let (sorted, values, out) = (access.read(sorted)?, access.read(values)?, access.write(out)?);
        let dim = sorted.layout.rank() - 1;
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
