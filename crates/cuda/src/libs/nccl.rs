//! The functions of NCCL that Kiln calls, with the numbers of its header
//! (<https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html>).

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    path::Path,
    sync::OnceLock,
};

use cudarc::driver::sys::CUstream;
use kiln_dylib::Open;

use super::search;

/// `ncclComm_t`
pub(crate) type Comm = *mut c_void;

/// `ncclUniqueId`
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct NcclId(pub(crate) [u8; 128]);

/// The header's numbers.
#[allow(non_snake_case)]
pub(crate) mod NCCL {
    use std::ffi::c_int;

    pub(crate) const SUM: c_int = 0;
    pub(crate) const MAX: c_int = 2;
    pub(crate) const MIN: c_int = 3;
    pub(crate) const AVG: c_int = 4;

    pub(crate) const UINT8: c_int = 1;
    pub(crate) const INT32: c_int = 2;
    pub(crate) const INT64: c_int = 4;
    pub(crate) const FLOAT16: c_int = 6;
    pub(crate) const FLOAT32: c_int = 7;
    pub(crate) const FLOAT64: c_int = 8;
    pub(crate) const BFLOAT16: c_int = 9;
}

type Reduce = unsafe extern "C" fn(u64, u64, usize, c_int, c_int, Comm, CUstream) -> c_int;
type Gather = unsafe extern "C" fn(u64, u64, usize, c_int, Comm, CUstream) -> c_int;

macro_rules! table {
    ($($field:ident = $symbol:literal: $ty:ty;)*) => {
        /// NCCL, found and opened.
        pub(crate) struct Nccl {
            $(pub(crate) $field: $ty,)*
            /// Keeps the code mapped.
            open: Open,
        }

        impl Nccl {
            fn resolve(open: Open) -> Result<Nccl, String> {
                let mut missing = Vec::new();
                $(
                    // SAFETY: the type is that of the library's header.
                    let $field = unsafe { open.symbol::<$ty>($symbol, &mut missing) };
                )*
                // A missing function has been noted, so the table is complete or does not exist.
                let table = (|| Some(($($field?,)*)))();
                match table {
                    Some(($($field,)*)) => Ok(Nccl { $($field,)* open }),
                    None => Err(open.lacks(&missing)),
                }
            }
        }
    };
}

table! {
    get_version = "ncclGetVersion": unsafe extern "C" fn(*mut c_int) -> c_int;
    get_unique_id = "ncclGetUniqueId": unsafe extern "C" fn(*mut NcclId) -> c_int;
    get_error_string = "ncclGetErrorString": unsafe extern "C" fn(c_int) -> *const c_char;
    get_last_error = "ncclGetLastError": unsafe extern "C" fn(Comm) -> *const c_char;
    comm_init_rank = "ncclCommInitRank": unsafe extern "C" fn(*mut Comm, c_int, NcclId, c_int) -> c_int;
    comm_destroy = "ncclCommDestroy": unsafe extern "C" fn(Comm) -> c_int;
    comm_abort = "ncclCommAbort": unsafe extern "C" fn(Comm) -> c_int;
    comm_get_async_error = "ncclCommGetAsyncError": unsafe extern "C" fn(Comm, *mut c_int) -> c_int;
    all_reduce = "ncclAllReduce": Reduce;
    reduce_scatter = "ncclReduceScatter": Reduce;
    broadcast = "ncclBroadcast": Reduce;
    all_gather = "ncclAllGather": Gather;
}

/// NCCL, which is searched for once. A reason is its absence, or that it is too old.
pub(crate) fn nccl() -> Result<&'static Nccl, &'static str> {
    static LIBRARY: OnceLock<Result<Nccl, String>> = OnceLock::new();
    let open = || Nccl::resolve(Open::new(&search::nccl(), |_| Ok(()))?);
    LIBRARY.get_or_init(open).as_ref().map_err(String::as_str)
}

impl Nccl {
    /// The version, as in `2.30.7`.
    pub(crate) fn version(&self) -> String {
        let mut version = 0;
        // SAFETY: writes one number; it cannot fail with a valid pointer.
        unsafe { (self.get_version)(&raw mut version) };
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// The path or bare name that it was loaded by.
    pub(crate) fn path(&self) -> &Path {
        self.open.path()
    }

    /// The library's texts for a code, and for the latest error.
    pub(crate) fn describe(&self, code: c_int) -> String {
        // SAFETY: any number is allowed; both are strings that are not freed.
        let [text, last] =
            unsafe { [(self.get_error_string)(code), (self.get_last_error)(std::ptr::null_mut())] }.map(|text| {
                if text.is_null() {
                    String::new()
                } else {
                    // SAFETY: as above.
                    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
                }
            });
        if last.is_empty() { format!("{text} (code {code})") } else { format!("{text} (code {code}): {last}") }
    }
}
