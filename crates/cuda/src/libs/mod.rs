//! The driver, cuBLASLt, cuDNN, NVRTC and NCCL, found and opened at run time.
//!
//! The functions are held in our own tables of pointers ([`functions!`]), with the types of cudarc's `sys` modules.
//! cudarc's own loaders are never called: they panic when a library or a symbol is missing, and know neither the
//! folders of Python wheels nor the names of a later major version (`libcublasLt.so.13`).
//!
//! `search` names the libraries, which `kiln-dylib` finds and opens; `libraries` ensures that all are of one major CUDA
//! version.

mod blas;
mod dnn;
mod driver;
mod libraries;
mod nccl;
mod release;
mod search;

pub(crate) use blas::{ALLOC_FAILED, CublasLt, status_name};
pub(crate) use dnn::{Cudnn, Failed, Failure};
pub(crate) use driver::Driver;
pub(crate) use libraries::{Libraries, libraries};
pub(crate) use nccl::{Comm, NCCL, Nccl, NcclId, nccl};
pub(crate) use release::release;

/// Declares a table of C functions, one field each, and how to fill it from a library. The compiler checks the
/// arguments against cudarc's bindings. Status codes are plain numbers: a code that is newer than the bindings would
/// not be a valid value of their enums. (For that reason functions that take a status code, or another code that the
/// library returns, are listed as `unchecked`.)
macro_rules! functions {
    ($(#[$meta:meta])* $table:ident: $status:ty as $raw:ty, $sys:path;
     $($field:ident = $symbol:ident($($arg:ident: $ty:ty),* $(,)?);)*
     $([unchecked] $loose:ident = $loose_symbol:ident($($loose_arg:ident: $loose_ty:ty),* $(,)?);)*) => {
        $(#[$meta])*
        pub(crate) struct $table {
            $(pub(crate) $field: unsafe extern "C" fn($($arg: $ty),*) -> $raw,)*
            $(pub(crate) $loose: unsafe extern "C" fn($($loose_arg: $loose_ty),*) -> $raw,)*
            /// Keeps the code mapped.
            open: kiln_dylib::Open,
        }

        const _: () = {
            use $sys as checked;
            $(const _: unsafe fn($($ty),*) -> $status = checked::$symbol;)*
        };

        impl $table {
            /// Resolves every function once.
            fn resolve(open: kiln_dylib::Open) -> Result<$table, String> {
                let mut missing = Vec::new();
                $(
                    // SAFETY: the type is that of the library's header, which cudarc's bindings are generated from.
                    let $field = unsafe {
                        open.symbol::<unsafe extern "C" fn($($ty),*) -> $raw>(stringify!($symbol), &mut missing)
                    };
                )*
                $(
                    // SAFETY: as above, with a number instead of the enum of status codes.
                    let $loose = unsafe {
                        open.symbol::<unsafe extern "C" fn($($loose_ty),*) -> $raw>(
                            stringify!($loose_symbol),
                            &mut missing,
                        )
                    };
                )*
                // A missing function has been noted, so the table is filled completely or not made at all.
                let table = (|| Some(($($field?,)* $($loose?,)*)))();
                match table {
                    Some(($($field,)* $($loose,)*)) => Ok($table { $($field,)* $($loose,)* open }),
                    None => Err(open.lacks(&missing)),
                }
            }
        }

        impl std::fmt::Debug for $table {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($table), self.open.path().display())
            }
        }
    };
}
use functions;
