//! What tests do without what they compare with.
use std::env;

/// What was found of NVIDIA's files. Without it a test says that it is skipped; if `KILN_REQUIRE_HEADERS` is set, it fails.
pub fn required<T>(what: &str, found: Option<T>) -> Option<T> {
    if found.is_none() {
        assert!(env::var_os("KILN_REQUIRE_HEADERS").is_none(), "{what} is required");
        eprintln!("skipped: {what} is not installed");
    }
    found
}
