//! Where there is no stand-in for the driver's library: the systems that cuDNN's own libraries need none to load on.

/// Does nothing.
///
/// # Errors
/// None.
pub fn load() -> Result<(), String> {
    Ok(())
}
