//! Finds and opens shared libraries (NVIDIA's and MPI) at run time, so that a program built once runs with or without
//! them.
//!
//! `places` lists the folders in order, `search` goes through them, and `loaded` finds the files that were loaded. A
//! library that is missing, or too old, is an error that names what was tried and the fix.

mod loaded;
mod places;
mod search;

use std::path::{Path, PathBuf};

pub use libloading::{Error as LoadError, Library};
pub use loaded::{file_of, nvidia_files};
pub use places::{Environment, ORDER, Place, Source, Wanted, dangling, places};
pub use search::{Spec, find};

/// An open library and its file.
#[derive(Debug)]
pub struct Open {
    library: Library,
    /// The path or bare name that the loader was given.
    path: PathBuf,
    title: &'static str,
    needs: &'static str,
}

/// The loader's message.
pub fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

impl Open {
    /// Finds and opens the first library that matches `spec` and that `check` accepts.
    ///
    /// # Errors
    /// The message that [`find`] makes.
    pub fn new(spec: &Spec, check: impl Fn(&Open) -> Result<(), String>) -> Result<Open, String> {
        let open = |path: &Path| {
            // SAFETY: the libraries that Kiln knows have no initializers with requirements on the caller.
            let library = unsafe { Library::new(path) }.map_err(|error| reason(&error))?;
            let open = Open { library, path: path.to_path_buf(), title: spec.title, needs: spec.needs };
            check(&open).map(|()| open)
        };
        Ok(find(spec, &Environment::process(), open)?.0)
    }

    /// Looks up a function; if it is missing, adds its name to the list of missing ones.
    ///
    /// # Safety
    /// `F` is the type of the function of that name.
    pub unsafe fn symbol<F: Copy>(&self, name: &'static str, missing: &mut Vec<&'static str>) -> Option<F> {
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
    pub unsafe fn get<F: Copy>(&self, name: &str) -> Option<F> {
        // SAFETY: by this function's own contract.
        unsafe { self.library.get::<F>(name.as_bytes()) }.ok().map(|symbol| *symbol)
    }

    /// Calls a function that takes nothing and returns a number: a version.
    ///
    /// # Safety
    /// There is no such function, or it is of this type.
    pub unsafe fn number(&self, name: &str) -> Option<usize> {
        // SAFETY: by this function's own contract.
        unsafe { self.get::<unsafe extern "C" fn() -> usize>(name).map(|function| function()) }
    }

    /// The file that was loaded: the path that was requested or, if the loader was given a bare name, the file that
    /// contains the code of `function`.
    pub fn file(&self, function: &str) -> PathBuf {
        if self.path.is_absolute() {
            return self.path.clone();
        }
        // SAFETY: the function is not called.
        let address = unsafe { self.get::<*const ()>(function) };
        address.and_then(|address| file_of(address as usize)).unwrap_or_else(|| self.path.clone())
    }

    /// The path or bare name that the loader was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The error message that names all missing symbols.
    pub fn lacks(&self, missing: &[&str]) -> String {
        format!(
            "{} was loaded as {}, which lacks {}: it is too old for Kiln, which needs {} or newer",
            self.title,
            self.path.display(),
            missing.join(", "),
            self.needs
        )
    }
}
