//! The kernels' side of the simulator, written in C++ (`csrc/engine.h`).
use std::ffi::{CStr, c_char, c_void};

use crate::report::Kind;

/// A kernel that was compiled for this machine.
#[repr(C)]
pub struct Kernel {
    name: *const c_char,
    call: Option<unsafe extern "C" fn(*mut *mut c_void)>,
    sizes: *const u32,
    kinds: *const u8,
    count: u32,
    next: *const Kernel,
}

#[repr(C)]
struct Table {
    first: *const *const Kernel,
}

/// Addresses from `begin` up to `end`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub begin: u64,
    pub end: u64,
}

#[repr(C)]
pub struct Launch {
    pub kernel: *const Kernel,
    pub arguments: *mut *mut c_void,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub shared_limit: u32,
    pub order: u32,
    pub races: u32,
    pub seed: u64,
    pub live: *const Range,
    pub live_count: usize,
}

#[repr(C)]
struct RawFault {
    kind: u32,
    fatal: u32,
    block: [u32; 3],
    thread: [u32; 3],
    text: [c_char; 320],
}

#[repr(C)]
struct RawOutcome {
    reads: *const Range,
    writes: *const Range,
    first_reads: *const Range,
    read_count: usize,
    write_count: usize,
    first_read_count: usize,
    faults: *const RawFault,
    fault_count: usize,
}

unsafe extern "C" {
    // An array that a null pointer ends.
    static sim_tables: [*const Table; 1];
    static sim_table_count: usize;
    static sim_framework_table_count: usize;
    fn sim_run(launch: *const Launch, outcome: *mut RawOutcome);
    fn sim_reserve(bytes: usize) -> u64;
    fn sim_protect(address: u64, bytes: usize, mode: i32) -> i32;
    fn sim_discard(address: u64, bytes: usize);
    fn sim_watch(address: u64, bytes: usize, mode: i32);
    fn sim_take_watch_hits(addresses: *mut u64, capacity: usize) -> usize;
}

// SAFETY: tables of constants, which nobody writes.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// The kernel of this name.
    pub fn find(name: &str) -> Option<&'static Kernel> {
        // SAFETY: a constant.
        Kernel::of(unsafe { sim_table_count }).find(|kernel| kernel.name().to_bytes() == name.as_bytes())
    }

    /// Those of the first tables.
    fn of(tables: usize) -> impl Iterator<Item = &'static Kernel> {
        // SAFETY: `build.rs` writes as many tables as it counts, whose pointers are to constants of the program, as are
        // those from each kernel to the next.
        unsafe {
            let tables = std::slice::from_raw_parts((&raw const sim_tables).cast::<*const Table>(), tables);
            tables.iter().flat_map(|table| {
                std::iter::successors((*(**table).first).as_ref(), |kernel: &&Kernel| kernel.next.as_ref())
            })
        }
    }

    fn name(&self) -> &'static CStr {
        // SAFETY: the tables' names are constants that a zero ends.
        unsafe { CStr::from_ptr(self.name) }
    }

    /// The bytes of each parameter.
    pub fn sizes(&self) -> &[u32] {
        // SAFETY: the table has `count` sizes and one more.
        unsafe { std::slice::from_raw_parts(self.sizes, self.count as usize) }
    }

    /// Whether each parameter is a pointer.
    pub fn pointers(&self) -> impl Iterator<Item = bool> + '_ {
        // SAFETY: the table has `count` kinds and one more.
        unsafe { std::slice::from_raw_parts(self.kinds, self.count as usize) }.iter().map(|kind| *kind != 0)
    }
}

/// The names of the framework's kernels that this build has.
pub fn kernel_names() -> Vec<String> {
    // SAFETY: a constant.
    Kernel::of(unsafe { sim_framework_table_count })
        .map(|kernel| kernel.name().to_string_lossy().into_owned())
        .collect()
}

/// Something that went wrong in a kernel.
pub struct Fault {
    pub kind: Kind,
    pub fatal: bool,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    pub text: String,
}

/// What a launch did.
pub struct Outcome {
    pub reads: Vec<Range>,
    pub writes: Vec<Range>,
    /// What it read before it wrote it.
    pub first_reads: Vec<Range>,
    pub faults: Vec<Fault>,
}

/// Runs a launch to its end.
///
/// # Safety
/// `launch.arguments` points to a value of the right size for each parameter, and `live` to sorted ranges.
pub unsafe fn run(launch: &Launch) -> Outcome {
    let mut raw = RawOutcome {
        reads: std::ptr::null(),
        writes: std::ptr::null(),
        first_reads: std::ptr::null(),
        read_count: 0,
        write_count: 0,
        first_read_count: 0,
        faults: std::ptr::null(),
        fault_count: 0,
    };
    // SAFETY: the caller's promise. The engine is used by one thread at a time: the world's lock is held.
    unsafe { sim_run(launch, &raw mut raw) };
    // SAFETY: the engine hands out arrays of these lengths, which live until the next launch.
    let (reads, writes, first_reads, faults) = unsafe {
        (
            copied(raw.reads, raw.read_count),
            copied(raw.writes, raw.write_count),
            copied(raw.first_reads, raw.first_read_count),
            std::slice::from_raw_parts(
                if raw.fault_count == 0 { std::ptr::NonNull::dangling().as_ptr() } else { raw.faults },
                raw.fault_count,
            ),
        )
    };
    let faults = faults
        .iter()
        .map(|fault| Fault {
            kind: kind(fault.kind),
            fatal: fault.fatal != 0,
            block: fault.block,
            thread: fault.thread,
            // SAFETY: the engine ends the text with a zero.
            text: unsafe { CStr::from_ptr(fault.text.as_ptr()) }.to_string_lossy().into_owned(),
        })
        .collect();
    Outcome { reads, writes, first_reads, faults }
}

/// # Safety
/// `count` ranges lie at `ranges`, or `count` is 0.
unsafe fn copied(ranges: *const Range, count: usize) -> Vec<Range> {
    // SAFETY: the caller's promise.
    if count == 0 { Vec::new() } else { unsafe { std::slice::from_raw_parts(ranges, count) }.to_vec() }
}

fn kind(raw: u32) -> Kind {
    match raw {
        1 => Kind::IllegalAddress,
        2 => Kind::Misaligned,
        3 => Kind::DivergentBarrier,
        4 => Kind::WarpMask,
        5 => Kind::SharedRace,
        6 => Kind::SharedBounds,
        8 => Kind::SharedSize,
        9 => Kind::SharedUninitialised,
        10 => Kind::GlobalRace,
        11 => Kind::Undefined,
        _ => Kind::Trap,
    }
}

/// What may be done with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum Access {
    None = 0,
    Read = 1,
    Write = 2,
}

/// Reserves the addresses of all device and pinned memory; 0 if there is no room.
pub fn reserve(bytes: usize) -> u64 {
    // SAFETY: maps fresh addresses.
    unsafe { sim_reserve(bytes) }
}

/// Sets what may be done with whole pages of the arena.
///
/// # Safety
/// The pages are the arena's, and no reference into them is in use.
pub unsafe fn protect(address: u64, bytes: usize, access: Access) -> bool {
    // SAFETY: the caller's promise.
    unsafe { sim_protect(address, bytes, access as i32) == 0 }
}

/// Gives pages of the arena back; touching them is an error from now on.
///
/// # Safety
/// As [`protect`].
pub unsafe fn discard(address: u64, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { sim_discard(address, bytes) }
}

/// Lets the host do only `access` with pages of pinned memory, and logs the first attempt at more.
///
/// # Safety
/// As [`protect`].
pub unsafe fn watch(address: u64, bytes: usize, access: Access) {
    // SAFETY: the caller's promise.
    unsafe { sim_watch(address, bytes, access as i32) }
}

/// Where the host touched watched memory since the last call.
pub fn watch_hits() -> Vec<u64> {
    let mut hits = [0u64; 64];
    // SAFETY: the array has room for what is announced.
    let count = unsafe { sim_take_watch_hits(hits.as_mut_ptr(), hits.len()) };
    hits[..count].to_vec()
}
