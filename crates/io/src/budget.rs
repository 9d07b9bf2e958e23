//! The memory that loading one file may take. Files can be small and name large things: they get an error instead of the
//! machine's memory.

use std::path::{Path, PathBuf};

use kiln_tensor::{Error, Result};

use crate::{LoadOptions, source::Source};

/// What a tensor without elements takes: handle, storage and layout.
pub(crate) const TENSOR: usize = 512;
/// What an entry of a map or list takes besides its contents.
const ENTRY: usize = 64;
/// What a JSON value takes when it is parsed without a type.
const JSON_VALUE: usize = 128;

/// Counts memory against the limit of one file.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    path: PathBuf,
    limit: usize,
    left: usize,
}

impl Budget {
    /// The limit that the options set, or ten times the file's length and 64 MiB.
    pub fn new(source: &Source, options: &LoadOptions) -> Budget {
        let default = source.len().saturating_mul(10).saturating_add(64 << 20);
        let limit = options.limit().unwrap_or(default);
        Budget { path: source.path().to_owned(), limit, left: limit }
    }

    /// What is left.
    #[cfg(feature = "pth")]
    pub fn left(&self) -> usize {
        self.left
    }

    /// The error that says how to get more.
    pub fn exceeded(&self) -> Error {
        let Budget { limit, .. } = self;
        let message = format!(
            "loading it takes more than {limit} bytes of memory: it is made to do harm, or needs a larger \
             `LoadOptions::memory_limit`"
        );
        Error::file(&self.path, message)
    }

    /// Counts memory that is about to be allocated.
    pub fn spend(&mut self, bytes: usize) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| self.exceeded())?;
        Ok(())
    }

    /// Counts memory that was freed.
    pub fn give_back(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes).min(self.limit);
    }

    /// Counts an entry of a map or list with this many bytes of contents.
    pub fn entry(&mut self, bytes: usize) -> Result<()> {
        self.spend(bytes.saturating_add(ENTRY))
    }

    /// Counts what parsing a JSON text into values of any type may take.
    pub fn json(&mut self, text: &[u8]) -> Result<()> {
        let values = text.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{' | b':')).count();
        self.spend(values.saturating_mul(JSON_VALUE).saturating_add(text.len()))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
