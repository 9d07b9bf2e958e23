//! The MPI functions that Kiln calls, through the standard ABI of MPI-5 (<https://www.mpi-forum.org/docs/mpi-5.0/>,
//! chapter "Application Binary Interface"): handles are pointers, with fixed values for predefined objects, so that one
//! binary runs with any library that has this ABI.

use std::ffi::{c_char, c_int, c_void};

use kiln_dylib::{Open, Spec, Wanted};

/// A handle of the ABI: a communicator, a datatype, an operation or a request.
pub(super) type Handle = *mut c_void;
/// `MPI_Count`.
pub(super) type Count = i64;

/// A predefined handle.
pub(super) const fn handle(number: usize) -> Handle {
    std::ptr::without_provenance_mut(number)
}

pub(super) const COMM_WORLD: Handle = handle(0x101);
pub(super) const INFO_NULL: Handle = handle(0x130);
pub(super) const ERRORS_RETURN: Handle = handle(0x143);
pub(super) const REQUEST_NULL: Handle = handle(0x180);
/// `MPI_IN_PLACE`.
pub(super) const IN_PLACE: *const c_void = std::ptr::without_provenance(1);

pub(super) const SUM: Handle = handle(0x21);
pub(super) const MIN: Handle = handle(0x22);
pub(super) const MAX: Handle = handle(0x23);

pub(super) const FLOAT: Handle = handle(0x210);
pub(super) const DOUBLE: Handle = handle(0x214);
pub(super) const UINT8: Handle = handle(0x241);
pub(super) const BYTE: Handle = handle(0x247);
pub(super) const INT32: Handle = handle(0x250);
pub(super) const INT64: Handle = handle(0x258);

pub(super) const ANY_SOURCE: c_int = -1;
/// Only the thread that initialized MPI calls it.
pub(super) const THREAD_FUNNELED: c_int = 1024;
/// Any thread calls it, one at a time.
pub(super) const THREAD_SERIALIZED: c_int = 2048;
/// Argument of `MPI_Comm_split_type`: processes that can share memory.
pub(super) const COMM_TYPE_SHARED: c_int = 221;
pub(super) const MAX_ERROR_STRING: usize = 512;
pub(super) const MAX_LIBRARY_VERSION_STRING: usize = 8192;

/// `MPI_Status`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Status {
    pub source: c_int,
    pub tag: c_int,
    pub error: c_int,
    internal: [c_int; 5],
}

macro_rules! functions {
    ($($field:ident = $symbol:literal($($ty:ty),* $(,)?);)*) => {
        /// MPI's functions, after the library was found and opened.
        pub(super) struct Library {
            $(pub(super) $field: unsafe extern "C" fn($($ty),*) -> c_int,)*
            /// Keeps the code mapped.
            open: Open,
        }

        impl Library {
            fn resolve(open: Open) -> Result<Library, String> {
                let mut missing = Vec::new();
                $(
                    // SAFETY: the type is that of the standard's header, `mpi.h` of the ABI.
                    let $field = unsafe {
                        open.symbol::<unsafe extern "C" fn($($ty),*) -> c_int>($symbol, &mut missing)
                    };
                )*
                // A missing function has been noted, so the table is complete or does not exist.
                let table = (|| Some(($($field?,)*)))();
                match table {
                    Some(($($field,)*)) => Ok(Library { $($field,)* open }),
                    None => Err(open.lacks(&missing)),
                }
            }
        }
    };
}

functions! {
    abi_get_version = "MPI_Abi_get_version"(*mut c_int, *mut c_int);
    comm_dup = "MPI_Comm_dup"(Handle, *mut Handle);
    comm_free = "MPI_Comm_free"(*mut Handle);
    comm_rank = "MPI_Comm_rank"(Handle, *mut c_int);
    comm_set_errhandler = "MPI_Comm_set_errhandler"(Handle, Handle);
    comm_size = "MPI_Comm_size"(Handle, *mut c_int);
    comm_split_type = "MPI_Comm_split_type"(Handle, c_int, c_int, Handle, *mut Handle);
    error_string = "MPI_Error_string"(c_int, *mut c_char, *mut c_int);
    finalize = "MPI_Finalize"();
    finalized = "MPI_Finalized"(*mut c_int);
    get_library_version = "MPI_Get_library_version"(*mut c_char, *mut c_int);
    iallgather = "MPI_Iallgather_c"(
        *const c_void, Count, Handle, *mut c_void, Count, Handle, Handle, *mut Handle,
    );
    iallreduce = "MPI_Iallreduce_c"(*const c_void, *mut c_void, Count, Handle, Handle, Handle, *mut Handle);
    ibarrier = "MPI_Ibarrier"(Handle, *mut Handle);
    ibcast = "MPI_Ibcast_c"(*mut c_void, Count, Handle, c_int, Handle, *mut Handle);
    init_thread = "MPI_Init_thread"(*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int);
    initialized = "MPI_Initialized"(*mut c_int);
    iprobe = "MPI_Iprobe"(c_int, c_int, Handle, *mut c_int, *mut Status);
    ireduce_scatter_block = "MPI_Ireduce_scatter_block_c"(
        *const c_void, *mut c_void, Count, Handle, Handle, Handle, *mut Handle,
    );
    isend = "MPI_Isend"(*const c_void, c_int, Handle, c_int, c_int, Handle, *mut Handle);
    query_thread = "MPI_Query_thread"(*mut c_int);
    recv = "MPI_Recv"(*mut c_void, c_int, Handle, c_int, c_int, Handle, *mut Status);
    test = "MPI_Test"(*mut Handle, *mut c_int, *mut Status);
}

fn spec() -> Spec {
    let names: &[&str] = match std::env::consts::OS {
        "windows" => &["mpi_abi.dll"],
        "macos" => &["libmpi_abi.1.dylib", "libmpi_abi.dylib"],
        _ => &["libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi_abi.so"],
    };
    Spec {
        title: "MPI (with the standard ABI of MPI-5)",
        fix: "install MPICH 5 or another MPI library that has it (`pip install mpich` brings it with `mpiexec`; \
              libmpi.so of older libraries is not used), or set KILN_MPI_PATH to the folder that holds it"
            .into(),
        needs: "version 1 of the ABI, as in MPICH 5",
        names: names.iter().map(ToString::to_string).collect(),
        wanted: Wanted::Mpi,
    }
}

impl Library {
    /// Finds and opens the library.
    ///
    /// # Errors
    /// If the names and places that were tried, and the fix.
    pub(super) fn open() -> Result<Library, String> {
        let library = Library::resolve(Open::new(&spec(), |_| Ok(()))?)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the function writes two numbers, and may be called before MPI is started.
        let code = unsafe { (library.abi_get_version)(&raw mut major, &raw mut minor) };
        if code != 0 || major != 1 {
            let file = library.open.path().display();
            return Err(format!("{file} has version {major}.{minor} of the ABI of MPI, and Kiln calls version 1"));
        }
        Ok(library)
    }

    /// The library's description of itself, in one line.
    pub(super) fn version(&self) -> String {
        let mut text = [0u8; MAX_LIBRARY_VERSION_STRING];
        let mut length = 0;
        // SAFETY: the array is as long as the standard asks for.
        unsafe { (self.get_library_version)(text.as_mut_ptr().cast(), &raw mut length) };
        let text = String::from_utf8_lossy(&text[..usize::try_from(length).unwrap_or(0).min(text.len())]);
        let first: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
        first.join(" ")
    }

    /// The library's text for an error code.
    pub(super) fn error_text(&self, code: c_int) -> String {
        let mut text = [0u8; MAX_ERROR_STRING];
        let mut length = 0;
        // SAFETY: the array is as long as the standard asks for.
        unsafe { (self.error_string)(code, text.as_mut_ptr().cast(), &raw mut length) };
        let text = String::from_utf8_lossy(&text[..usize::try_from(length).unwrap_or(0).min(text.len())]);
        let words: Vec<&str> = text.trim_matches('\0').split_whitespace().collect();
        format!("{} (code {code})", words.join(" "))
    }
}
