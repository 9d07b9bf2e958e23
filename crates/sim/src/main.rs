//! `cargo sim <command…>`: builds the simulated device and runs a command on it.
#[cfg(feature = "device")]
mod account_table;
#[cfg(feature = "device")]
mod coverage;
#[cfg(feature = "device")]
mod runner;
#[cfg(feature = "device")]
mod sanitize;

fn main() -> std::process::ExitCode {
    #[cfg(feature = "device")]
    return runner::main();
    #[cfg(not(feature = "device"))]
    {
        eprintln!("this build has no simulated device; run it as `cargo sim <command…>`, which needs a C++ compiler");
        std::process::ExitCode::FAILURE
    }
}
