//! Bindings to the engine that runs kernels, which is written in C++ (`csrc/engine.h`).
use std::env;
use std::error::Error as _;
use std::ffi::{CStr, OsStr, c_char, c_void};
use std::sync::OnceLock;

use crate::kind::Kind;

/// A kernel compiled for the host.
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

/// Addresses `begin..end`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first one.
    pub begin: u64,
    /// The one after the last.
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
    pub foreign: *const Range,
    pub foreign_count: usize,
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

/// Declares the engine's interface: the linked functions, and pointers to those of the engine in use.
macro_rules! interface {
    ($($field:ident: $name:ident($($argument:ident: $kind:ty),*) $(-> $out:ty)?;)*) => {
        mod linked {
            use super::*;
            unsafe extern "C" {
                // A null-terminated array.
                pub static sim_tables: [*const Table; 1];
                pub static sim_table_count: usize;
                pub static sim_framework_table_count: usize;
                $(pub fn $name($($argument: $kind),*) $(-> $out)?;)*
            }
        }

        /// An engine: kernels, and the functions that run them.
        struct Engine {
            tables: *const *const Table,
            table_count: usize,
            framework_table_count: usize,
            /// Whether it reports which memory launches accessed.
            records: bool,
            $($field: unsafe extern "C" fn($($kind),*) $(-> $out)?,)*
        }

        impl Engine {
            fn linked() -> Self {
                Engine {
                    tables: (&raw const linked::sim_tables).cast(),
                    // SAFETY: constants.
                    table_count: unsafe { linked::sim_table_count },
                    // SAFETY: as above.
                    framework_table_count: unsafe { linked::sim_framework_table_count },
                    records: true,
                    $($field: linked::$name,)*
                }
            }

            /// Loads an engine that was built for a sanitizer's library.
            fn load(path: &OsStr) -> Result<Self, libloading::Error> {
                // SAFETY: the runner built it from the same sources as the linked one, so its symbols have the same
                // types; it is never unloaded.
                unsafe {
                    let library = Box::leak(Box::new(libloading::Library::new(path)?));
                    Ok(Engine {
                        tables: *library.get(b"sim_tables")?,
                        table_count: **library.get::<*const usize>(b"sim_table_count")?,
                        framework_table_count: **library.get::<*const usize>(b"sim_framework_table_count")?,
                        records: false,
                        $($field: *library.get(stringify!($name).as_bytes())?,)*
                    })
                }
            }
        }
    };
}

interface! {
    run: sim_run(launch: *const Launch, outcome: *mut RawOutcome);
    reserve: sim_reserve(bytes: usize) -> u64;
    protect: sim_protect(address: u64, bytes: usize, mode: i32) -> i32;
    discard: sim_discard(address: u64, bytes: usize);
    forbid: sim_forbid(address: u64, bytes: usize);
    watch: sim_watch(address: u64, bytes: usize, mode: i32);
    take_watch_hits: sim_take_watch_hits(addresses: *mut u64, capacity: usize) -> usize;
}

// SAFETY: the pointer is to constants, and the functions are called with the world's lock held.
unsafe impl Send for Engine {}
// SAFETY: as above.
unsafe impl Sync for Engine {}

/// The engine of this process: the linked one, or the one that `KILN_SIM_ENGINE` names.
fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| match env::var_os(ENGINE_PATH) {
        None => Engine::linked(),
        Some(path) => Engine::load(&path).unwrap_or_else(|error| {
            let why = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            eprintln!("simulated device: {ENGINE_PATH}: {error}{why}");
            std::process::exit(1)
        }),
    })
}

/// Loads the engine, or ends the process: to be called where the world's lock is not held, which the report at the end of
/// the process takes.
pub fn load() {
    engine();
}

/// The environment variable with the path of the engine's library.
pub const ENGINE_PATH: &str = "KILN_SIM_ENGINE";

/// Whether launches report which memory they accessed. Under a sanitizer they do not.
pub fn records() -> bool {
    engine().records
}

// SAFETY: tables of constants, which nobody writes.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// The kernel with this name.
    pub fn find(name: &str) -> Option<&'static Kernel> {
        Kernel::of(engine().table_count).find(|kernel| kernel.name().to_bytes() == name.as_bytes())
    }

    /// The kernels of the first `tables` tables.
    fn of(tables: usize) -> impl Iterator<Item = &'static Kernel> {
        // SAFETY: `build.rs` writes as many tables as it counts; their pointers are to constants of the program, as are
        // those from each kernel to the next.
        unsafe {
            let tables = std::slice::from_raw_parts(engine().tables, tables);
            tables.iter().flat_map(|table| {
                std::iter::successors((*(**table).first).as_ref(), |kernel: &&Kernel| kernel.next.as_ref())
            })
        }
    }

    fn name(&self) -> &'static CStr {
        // SAFETY: the tables' names are zero-terminated constants.
        unsafe { CStr::from_ptr(self.name) }
    }

    /// The size of each parameter in bytes.
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

/// The names of the framework's kernels in this build.
pub fn kernel_names() -> Vec<String> {
    Kernel::of(engine().framework_table_count).map(|kernel| kernel.name().to_string_lossy().into_owned()).collect()
}

/// An error in a kernel.
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

/// Runs a launch to completion.
///
/// # Safety
/// `launch.arguments` points to a value of the right size for each parameter, and `live` and `foreign` to sorted ranges.
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
    unsafe { (engine().run)(launch, &raw mut raw) };
    // SAFETY: the engine returns arrays of these lengths, which live until the next launch.
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
        9 => Kind::SharedUninitialized,
        10 => Kind::GlobalRace,
        11 => Kind::Undefined,
        _ => Kind::Trap,
    }
}

/// Permitted accesses to memory.
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
    unsafe { (engine().reserve)(bytes) }
}

/// Sets the permitted accesses to whole pages of the arena.
///
/// # Safety
/// The pages are the arena's, and no reference into them is in use.
pub unsafe fn protect(address: u64, bytes: usize, access: Access) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (engine().protect)(address, bytes, access as i32) == 0 }
}

/// Releases pages of the arena; accessing them is an error from now on.
///
/// # Safety
/// As [`protect`].
pub unsafe fn discard(address: u64, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { (engine().discard)(address, bytes) }
}

/// Tells a sanitizer that the bytes after an allocation must not be accessed.
pub fn forbid(address: u64, bytes: usize) {
    // SAFETY: it changes what the sanitizer knows of these addresses, but no memory.
    unsafe { (engine().forbid)(address, bytes) }
}

/// Restricts the host to `access` on pages of pinned memory, and logs the first violation.
///
/// # Safety
/// As [`protect`].
pub unsafe fn watch(address: u64, bytes: usize, access: Access) {
    // SAFETY: the caller's promise.
    unsafe { (engine().watch)(address, bytes, access as i32) }
}

/// The addresses at which the host accessed watched memory since the last call.
pub fn watch_hits() -> Vec<u64> {
    let mut hits = [0u64; 64];
    // SAFETY: the array has room for what is announced.
    let count = unsafe { (engine().take_watch_hits)(hits.as_mut_ptr(), hits.len()) };
    hits[..count].to_vec()
}
