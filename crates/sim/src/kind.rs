//! The kinds of mistakes that the simulated device detects.

/// A kind of mistake, by which reports count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An access outside every live allocation.
    IllegalAddress,
    /// An access that is not aligned for its type.
    Misaligned,
    /// A barrier that not all threads of a block reach.
    DivergentBarrier,
    /// A warp operation whose mask differs from the lanes that arrive.
    WarpMask,
    /// Two accesses to shared memory without a barrier between them.
    SharedRace,
    /// An access outside every shared variable.
    SharedBounds,
    /// A trap or a failed assertion in a kernel.
    Trap,
    /// More shared memory than the launch may use.
    SharedSize,
    /// A read of uninitialized shared memory.
    SharedUninitialized,
    /// A read of uninitialized device memory.
    Uninitialized,
    /// Two unordered accesses to global memory by threads of one launch.
    GlobalRace,
    /// Undefined behavior of C++.
    Undefined,
    /// Two unordered operations on the same bytes.
    Unordered,
    /// Memory that is freed while queued work still uses it.
    FreeInUse,
    /// The host touched pinned memory that a copy was still using.
    HostTooEarly,
    /// A descriptor that was destroyed, or never was one of its kind.
    Descriptor,
    /// A product whose output overlaps its operands or itself.
    Overlap,
    /// A graph that uses memory which has been freed since it was captured.
    StaleGraph,
    /// Memory that is never freed.
    Leak,
    /// Ranks that call different collectives, or one with a communicator that is gone.
    Collective,
    /// A kernel whose parameters in the PTX differ from those in the simulator's build.
    Signature,
}

impl Kind {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::IllegalAddress => "illegal address",
            Kind::Misaligned => "misaligned access",
            Kind::DivergentBarrier => "divergent barrier",
            Kind::WarpMask => "wrong warp mask",
            Kind::SharedRace => "race in shared memory",
            Kind::SharedBounds => "shared memory out of bounds",
            Kind::Trap => "trap",
            Kind::SharedSize => "too much shared memory",
            Kind::SharedUninitialized => "uninitialized shared memory",
            Kind::Uninitialized => "uninitialized memory",
            Kind::GlobalRace => "race in global memory",
            Kind::Undefined => "undefined behavior",
            Kind::Unordered => "unordered access",
            Kind::FreeInUse => "freed while in use",
            Kind::HostTooEarly => "host access too early",
            Kind::Descriptor => "wrong descriptor",
            Kind::Overlap => "overlapping matrices",
            Kind::StaleGraph => "stale graph",
            Kind::Leak => "leak",
            Kind::Collective => "collective",
            Kind::Signature => "signature",
        }
    }
}
