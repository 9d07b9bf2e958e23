//! Groups of elements of dense tensors, for kernels that access 16 bytes at a time: whether these kernels apply, and
//! how the groups are divided among teams.

use super::{Dim, Groups, Lanes, PackedGroups, Reduce, plan::share};

/// The least packs per thread for which more blocks share a group.
const SERIAL_PACKS: u64 = 8;
/// Bytes per pack.
pub const PACK: u64 = 16;

impl PackedGroups {
    /// The groups, and the operation of their kernels (`along` or `across` memory), if the operands can be accessed in
    /// packs of elements of `size` bytes. `addresses` are those of the operands of `groups` that are present, which must all
    /// have the same layout.
    #[must_use]
    pub fn new(groups: &Groups, addresses: [Option<u64>; 3], size: usize) -> Option<(&'static str, PackedGroups)> {
        let inner = &groups.inner;
        let (pack, rank) = (PACK / size as u64, inner.rank as usize);
        let alike = addresses.iter().enumerate().filter(|(_, address)| address.is_some()).all(|(k, _)| {
            inner.strides[k][..rank] == inner.strides[0][..rank] && groups.strides[k] == groups.strides[0]
        });
        let aligned = addresses.iter().flatten().all(|address| address.is_multiple_of(PACK));
        let whole = |n: u64| n > 0 && n.is_multiple_of(pack);
        let stride = |stride: i64| u64::try_from(stride).is_ok_and(whole);
        if size > 4 || !alike || !aligned || inner.numel == 0 {
            return None;
        }
        let (strides, group_stride, channels) = (&inner.strides[0], groups.strides[0], groups.count.extent);
        let last = rank - 1;
        let (op, count, run, run_stride, group_stride, step) = if rank == 1 && group_stride == 1 && whole(channels) {
            // Adjacent elements in memory belong to different groups.
            if !stride(strides[0]) && inner.numel > 1 {
                return None;
            }
            ("across", channels / pack, inner.numel, 0, pack as i64, u32::try_from(strides[0]).ok()?)
        } else if rank <= 2 && strides[last] == 1 && whole(inner.dims[last].extent) {
            let aside = rank == 2 && !stride(strides[0]) || channels > 1 && !stride(group_stride);
            if aside {
                return None;
            }
            (
                "along",
                channels,
                inner.dims[last].extent / pack,
                strides[0] * (rank as i64 - 1),
                group_stride,
                pack as u32,
            )
        } else {
            return None;
        };
        let across = op == "across";
        let packs = if across { inner.numel } else { inner.numel / pack };
        let (lanes, chunk, splits) = share(packs, count, across, SERIAL_PACKS);
        // Kernels index packs and tasks with 32 bits, including one iteration beyond the end.
        let small = |n: u64| u32::try_from(n).ok().filter(|&n| n < 1 << 30);
        let stage = match groups.stage {
            Groups::GIVEN => Groups::GIVEN,
            _ if splits > 1 => Reduce::FIRST,
            _ => Reduce::WHOLE,
        };
        let packed = PackedGroups {
            count: Dim::new(count),
            run: Dim::new(run),
            group_stride,
            run_stride,
            step,
            packs: small(packs)?,
            chunk: small(chunk)?,
            splits: small(splits)?,
            lanes,
            stage,
            unused: 0,
        };
        small(count.checked_mul(splits)?)?;
        Some((op, packed))
    }

    /// The number of partial results between the stages for `channels` groups; 0 if there is a single stage.
    #[must_use]
    pub fn partials(&self, channels: u64) -> u64 {
        if self.stage == Reduce::FIRST { channels * u64::from(self.splits) } else { 0 }
    }

    /// The number of blocks that gives each team of each group work.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        super::blocks(self.count.extent * u64::from(self.splits) * self.lanes.count())
    }

    /// The second stage, in which one team combines the partial results of a group.
    #[must_use]
    pub fn second(&self, groups: &Groups) -> Groups {
        let (splits, channels) = (u64::from(self.splits), groups.count.extent);
        Groups { splits, stage: Reduce::SECOND, lanes: Lanes::new(splits, channels, false), ..*groups }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Place;

    const ADDRESSES: [u64; 3] = [256, 512, 1024];

    fn packed(dims: &[usize], strides: &[isize], dim: usize, size: usize) -> Option<(&'static str, PackedGroups)> {
        let place = |address| Some(Place { address, strides });
        let groups = Groups::new(dims, dim, ADDRESSES.map(place));
        PackedGroups::new(&groups, ADDRESSES.map(Some), size)
    }

    #[test]
    fn packs_lie_along_or_across_memory() {
        let (op, planes) = packed(&[32, 64, 28, 28], &[50176, 784, 28, 1], 1, 2).unwrap();
        assert_eq!((op, planes.count.extent, planes.run.extent, planes.packs), ("along", 64, 98, 32 * 98));
        assert_eq!((planes.group_stride, planes.run_stride, planes.step), (784, 50176, 8));
        let (op, pixels) = packed(&[32, 64, 28, 28], &[50176, 1, 1792, 64], 1, 2).unwrap();
        assert_eq!((op, pixels.count.extent, pixels.packs, pixels.step), ("across", 8, 32 * 784, 64));
        assert_eq!((pixels.group_stride, pixels.lanes.across, pixels.stage), (8, 1, Reduce::FIRST));
        assert!(pixels.chunk * pixels.splits >= pixels.packs && (pixels.splits - 1) * pixels.chunk < pixels.packs);
        let (op, rows) = packed(&[64, 512], &[512, 1], 1, 4).unwrap();
        assert_eq!((op, rows.count.extent, rows.packs), ("across", 128, 64));
        let (op, rows) = packed(&[64, 512], &[512, 1], 0, 4).unwrap();
        assert_eq!((op, rows.count.extent, rows.packs, rows.run.extent), ("along", 64, 128, 128));
        assert_eq!(packed(&[1, 64], &[64, 1], 1, 4).unwrap().0, "across");
    }

    #[test]
    fn what_has_no_packs_is_left_to_other_kernels() {
        // Planes of 49 pixels, three channels, f64, gaps, no elements.
        assert!(packed(&[32, 64, 7, 7], &[3136, 49, 7, 1], 1, 4).is_none());
        assert!(packed(&[32, 3, 28, 28], &[2352, 1, 84, 3], 1, 4).is_none());
        assert!(packed(&[64, 512], &[512, 1], 1, 8).is_none());
        assert!(packed(&[64, 512], &[513, 1], 1, 4).is_none());
        assert!(packed(&[64, 512], &[1024, 2], 1, 4).is_none());
        assert!(packed(&[0, 512], &[512, 1], 1, 4).is_none());
        let strides = [[512, 1], [512, 1], [1, 64]];
        let places = [0, 1, 2].map(|k| Some(Place { address: ADDRESSES[k], strides: &strides[k][..] }));
        let groups = Groups::new(&[64, 512], 1, places);
        assert!(PackedGroups::new(&groups, ADDRESSES.map(Some), 4).is_none());
        assert!(PackedGroups::new(&groups, [Some(256), Some(512), None], 4).is_some());
        assert!(PackedGroups::new(&groups, [Some(256), Some(520), None], 4).is_none());
    }
}
