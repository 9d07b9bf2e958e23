//! The instruction set that kernels are chosen for: the best one that the CPU supports, or the one that `KILN_CPU`
//! names.

use std::{ffi::OsStr, sync::OnceLock};

use kiln_backend::{ErrorKind, Result};

/// An instruction set that loops and kernels are compiled for. Each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // others have one level
pub(crate) enum Level {
    /// The target features that the crate is built with.
    Generic,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL) on top.
    Avx512,
}

/// The environment variable that chooses a level, for tests and benchmarks of levels below the machine's best.
const VARIABLE: &str = "KILN_CPU";

impl Level {
    const ALL: [Level; 3] = [Level::Generic, Level::Avx2, Level::Avx512];

    fn name(self) -> &'static str {
        match self {
            Level::Generic => "generic",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }

    /// The best level of this CPU.
    fn detect() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") {
                let wide = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
                return if wide { Level::Avx512 } else { Level::Avx2 };
            }
        }
        Level::Generic
    }

    /// The level that the variable's value requests, on a CPU whose best is `best`.
    fn choose(value: Option<&OsStr>, best: Level) -> Result<Level, String> {
        let Some(value) = value else { return Ok(best) };
        let Some(level) = Level::ALL.into_iter().find(|level| value == level.name()) else {
            return Err(format!("{VARIABLE}={} is not one of generic, avx2, avx512", value.display()));
        };
        if level > best {
            let (level, best) = (level.name(), best.name());
            return Err(format!(
                "{VARIABLE}={level} asks for instructions that this CPU lacks; its best level is {best}"
            ));
        }
        Ok(level)
    }
}

/// The level of this process. The variable is read once.
fn chosen() -> &'static Result<Level, String> {
    static LEVEL: OnceLock<Result<Level, String>> = OnceLock::new();
    LEVEL.get_or_init(|| Level::choose(std::env::var_os(VARIABLE).as_deref(), Level::detect()))
}

/// The level to run at.
#[inline]
pub(crate) fn level() -> Level {
    match chosen() {
        Ok(level) => *level,
        // Callers come through `backend`, which reports the error; this level runs everywhere.
        Err(_) => Level::Generic,
    }
}

/// Checks that `KILN_CPU`, if it is set, names a level that this CPU has.
pub(crate) fn check() -> Result<()> {
    match chosen() {
        Ok(_) => Ok(()),
        Err(reason) => Err(ErrorKind::DeviceUnavailable { device: "cpu".into(), reason: reason.clone() }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_chooses_among_what_the_cpu_has() {
        let choose = |value: &str, best| Level::choose(Some(value.as_ref()), best);
        for best in Level::ALL {
            assert_eq!(Level::choose(None, best), Ok(best));
            for level in Level::ALL {
                assert_eq!(choose(level.name(), best).is_ok(), level <= best, "{level:?} of {best:?}");
            }
            assert_eq!(choose("generic", best), Ok(Level::Generic));
            for unknown in ["", "AVX2", "sse", "avx512 "] {
                assert_eq!(
                    choose(unknown, best),
                    Err(format!("KILN_CPU={unknown} is not one of generic, avx2, avx512"))
                );
            }
        }
        let absent = "KILN_CPU=avx512 asks for instructions that this CPU lacks; its best level is avx2";
        assert_eq!(choose("avx512", Level::Avx2), Err(absent.to_owned()));
    }

    /// The tests of this crate run at the level that the environment requests.
    #[test]
    fn level_is_the_one_asked_for() {
        check().unwrap();
        let asked = std::env::var(VARIABLE).unwrap_or_else(|_| Level::detect().name().to_owned());
        assert_eq!(level().name(), asked);
    }
}
