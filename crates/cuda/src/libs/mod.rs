//! The driver, cuBLASLt, cuDNN and NVRTC, found and opened at run time.
//!
//! The functions are held in tables of pointers of our own ([`functions!`]), with the types of cudarc's `sys`
//! modules. cudarc's own loaders are never called: they panic when a library or a symbol is missing, and know
//! neither the folders of Python wheels nor names of a later major version (`libcublasLt.so.13`).
//!
//! `places` is the order of the folders, `search` goes through it, `libraries` sees to it that all are of one major
//! version of CUDA, `loaded` tells which files came of it.

mod blas;
mod dnn;
mod driver;
mod libraries;
mod loaded;
mod places;
mod search;

use std::path::{Path, PathBuf};

pub(crate) use blas::{ALLOC_FAILED, CublasLt, status_name};
pub(crate) use dnn::{Cudnn, Failure, status_name as dnn_status_name};
pub(crate) use driver::Driver;
use libloading::Library;
pub(crate) use libraries::{Libraries, libraries, release};
use search::Spec;

/// An open library and the file that it is.
#[derive(Debug)]
pub(crate) struct Open {
    library: Library,
    /// What the loader was asked for: a path, or a bare name.
    path: PathBuf,
    title: &'static str,
    needs: &'static str,
}

/// The loader's own words.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

impl Open {
    /// Finds and opens the first library that fits `spec` and that `check` finds nothing wrong with.
    ///
    /// # Errors
    /// The text that [`search::find`] makes.
    fn new(spec: &Spec, check: impl Fn(&Open) -> Result<(), String>) -> Result<Open, String> {
        let open = |path: &Path| {
            // SAFETY: NVIDIA's libraries have no initializers with requirements on the caller.
            let library = unsafe { Library::new(path) }.map_err(|error| reason(&error))?;
            let open = Open { library, path: path.to_path_buf(), title: spec.title, needs: spec.needs };
            check(&open).map(|()| open)
        };
        Ok(search::find(spec, &places::Environment::process(), open)?.0)
    }

    /// The function, or its name on the list of those that are missing.
    ///
    /// # Safety
    /// `F` is the type of the function of that name.
    unsafe fn symbol<F: Copy>(&self, name: &'static str, missing: &mut Vec<&'static str>) -> Option<F> {
        // SAFETY: by this function's own contract.
        let symbol = unsafe { self.get::<F>(name) };
        if symbol.is_none() {
            missing.push(name);
        }
        symbol
    }

    /// A function that only some versions have.
    ///
    /// # Safety
    /// `F` is the type of the function of that name.
    unsafe fn get<F: Copy>(&self, name: &str) -> Option<F> {
        // SAFETY: by this function's own contract.
        unsafe { self.library.get::<F>(name.as_bytes()) }.ok().map(|symbol| *symbol)
    }

    /// The answer of a function that takes nothing and returns a number: a version.
    ///
    /// # Safety
    /// There is no such function, or it is of this kind.
    unsafe fn number(&self, name: &str) -> Option<usize> {
        // SAFETY: by this function's own contract.
        unsafe { self.get::<unsafe extern "C" fn() -> usize>(name).map(|function| function()) }
    }

    /// The file that was loaded: the one that was asked for, or where the code of one of its functions lies if the loader
    /// was asked for a name.
    fn file(&self, function: &str) -> PathBuf {
        if self.path.is_absolute() {
            return self.path.clone();
        }
        // SAFETY: the function is not called.
        let address = unsafe { self.get::<*const ()>(function) };
        address.and_then(|address| loaded::file_of(address as usize)).unwrap_or_else(|| self.path.clone())
    }

    /// The text of an error that names all the symbols that are missing.
    fn lacks(&self, missing: &[&str]) -> String {
        format!(
            "{} was loaded as {}, which lacks {}: it is too old for Kiln, which needs {} or newer",
            self.title,
            self.path.display(),
            missing.join(", "),
            self.needs
        )
    }
}

/// Declares a table of C functions, a field each, and how to fill it from a library. That the arguments are
/// those of cudarc's bindings is checked by the compiler. Status codes are plain numbers: a code that is newer
/// than the bindings would not be a valid value of their enums. (For that reason functions that take one are
/// listed as `unchecked`, and so are those that take a code of another kind that the library hands out.)
macro_rules! functions {
    ($(#[$meta:meta])* $table:ident: $status:ty as $raw:ty, $sys:path;
     $($field:ident = $symbol:ident($($arg:ident: $ty:ty),* $(,)?);)*
     $([unchecked] $loose:ident = $loose_symbol:ident($($loose_arg:ident: $loose_ty:ty),* $(,)?);)*) => {
        $(#[$meta])*
        pub(crate) struct $table {
            $(pub(crate) $field: unsafe extern "C" fn($($arg: $ty),*) -> $raw,)*
            $(pub(crate) $loose: unsafe extern "C" fn($($loose_arg: $loose_ty),*) -> $raw,)*
            /// Keeps the code mapped.
            open: $crate::libs::Open,
        }

        const _: () = {
            use $sys as checked;
            $(const _: unsafe fn($($ty),*) -> $status = checked::$symbol;)*
        };

        impl $table {
            /// Resolves every function once.
            fn resolve(open: $crate::libs::Open) -> Result<$table, String> {
                let mut missing = Vec::new();
                $(
                    // SAFETY: the type is that of the library's header, which cudarc's bindings are made of.
                    let $field = unsafe {
                        open.symbol::<unsafe extern "C" fn($($ty),*) -> $raw>(stringify!($symbol), &mut missing)
                    };
                )*
                $(
                    // SAFETY: as above, with a number in place of the enum of status codes.
                    let $loose = unsafe {
                        open.symbol::<unsafe extern "C" fn($($loose_ty),*) -> $raw>(
                            stringify!($loose_symbol),
                            &mut missing,
                        )
                    };
                )*
                // One that is missing has been noted, so the table is made of all or not at all.
                let table = (|| Some(($($field?,)* $($loose?,)*)))();
                match table {
                    Some(($($field,)* $($loose,)*)) => Ok($table { $($field,)* $($loose,)* open }),
                    None => Err(open.lacks(&missing)),
                }
            }
        }

        impl std::fmt::Debug for $table {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($table), self.open.path.display())
            }
        }
    };
}
use functions;
