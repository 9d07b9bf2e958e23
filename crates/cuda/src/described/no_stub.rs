//! A placeholder for systems where cuDNN's own libraries load without the driver's library.

/// Does nothing.
///
/// # Errors
/// None.
pub fn load() -> Result<(), String> {
    Ok(())
}
