//! Pools of the caching allocator: memory for everybody, or for the work of one capture.

/// Who may use a block: everybody (the default), or the work of one capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pool(pub(super) u32);

impl Pool {
    pub(crate) const COMMON: Pool = Pool(0);
}
