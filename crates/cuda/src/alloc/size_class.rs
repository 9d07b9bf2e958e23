//! Small and large requests, which the caching allocator serves from different segments.

/// Sizes are multiples of this, and so are the addresses within a segment.
pub(crate) const ROUND: usize = 512;
/// Requests up to this size share small segments, so that they do not fragment the large ones.
pub(super) const SMALL: usize = 1 << 20;
pub(super) const SMALL_SEGMENT: usize = 2 << 20;
/// Large requests below this share segments of this size.
pub(super) const LARGE_SEGMENT: usize = 20 << 20;
/// Segments for larger requests are multiples of this, which is the driver's own granularity.
pub(super) const LARGE_ROUND: usize = 2 << 20;

/// Which blocks a request may be served from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Small,
    Large,
}

impl Class {
    pub(super) fn of(bytes: usize) -> Class {
        if bytes <= SMALL { Class::Small } else { Class::Large }
    }

    /// The size of the segment for a request that no block fits.
    pub(super) fn segment(self, bytes: usize) -> usize {
        match self {
            Class::Small => SMALL_SEGMENT,
            Class::Large if bytes <= LARGE_SEGMENT / 2 => LARGE_SEGMENT,
            Class::Large => bytes.next_multiple_of(LARGE_ROUND),
        }
    }

    /// The smallest remainder that becomes a block of its own.
    pub(super) fn least_rest(self) -> usize {
        match self {
            Class::Small => ROUND,
            Class::Large => SMALL,
        }
    }
}
