//! Chooses the compiled image of the kernels that a device loads: SASS of its own architecture, else PTX, which the
//! driver compiles.
//!
//! SASS for X.y runs on every device X.z with z ≥ y, except that Jetson's devices run only their own. It also needs a
//! driver of the same major CUDA release as the assembler, or a later one: older drivers load newer SASS within a major
//! release (NVIDIA's "minor version compatibility") but refuse it across major releases. PTX runs on all later
//! architectures and, because the build lowers its version, on all drivers that support its architecture.

use std::{env, fmt, fs, path::PathBuf, process};

use crate::{
    launch::{Code, Image},
    libs::release,
};

/// Jetson and similar devices, which cannot run the SASS of other devices of the same major version.
const INTEGRATED: [u32; 5] = [72, 87, 88, 101, 110];

/// The images for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The architecture of the SASS, or why there is none.
    pub(crate) sass: Result<u32, NoSass>,
    /// The architecture of the PTX.
    pub(crate) ptx: Option<u32>,
    /// The device's compute capability, 90 for 9.0.
    capability: u32,
    /// The architectures that the build has SASS for.
    built: Vec<u32>,
}

/// Why a device cannot run this build's SASS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSass {
    /// There is none for its architecture.
    Architecture,
    /// The driver is of an earlier major CUDA release than the assembler; both encoded as 12080.
    Driver { driver: u32, toolkit: u32 },
}

fn runs(device: u32, sass: u32) -> bool {
    let integrated = |capability| INTEGRATED.contains(&capability);
    sass == device || (sass / 10 == device / 10 && sass < device && !integrated(sass) && !integrated(device))
}

/// Chooses among the build's images for a device of this capability (90 for 9.0) under this driver. The SASS was
/// assembled by CUDA `toolkit`.
///
/// # Errors
/// The reason, if there are none.
pub(crate) fn choose(images: &[Image], toolkit: u32, capability: u32, driver: i32) -> Result<Choice, String> {
    let of = |code| images.iter().filter(move |image| image.code == code).map(|image| image.capability);
    let mut built: Vec<u32> = of(Code::Sass).collect();
    built.sort_unstable();
    built.dedup();
    let driver = driver.max(0).unsigned_abs();
    let sass = match built.iter().copied().filter(|&sass| runs(capability, sass)).max() {
        None => Err(NoSass::Architecture),
        Some(_) if driver / 1000 < toolkit / 1000 => Err(NoSass::Driver { driver, toolkit }),
        Some(sass) => Ok(sass),
    };
    let ptx = of(Code::Ptx).filter(|&ptx| ptx <= capability).max();
    if sass.is_err() && ptx.is_none() {
        let Some(lowest) = of(Code::Ptx).min() else {
            return Err(
                "this build of Kiln has no CUDA kernels. To fix it, build with the feature `cuda` on a machine \
                        with NVIDIA's nvcc, and without KILN_CUDA_STUB"
                    .into(),
            );
        };
        return Err(format!(
            "its compute capability is {}, and this build has kernels for {} and newer. To fix it, build with {}: nvcc of CUDA 12 \
             knows 5.0 and newer, of CUDA 13 7.5 and newer",
            dotted(capability),
            dotted(lowest),
            setting(&built, capability)
        ));
    }
    Ok(Choice { sass, ptx, capability, built })
}

/// `9.0` for 90.
fn dotted(capability: u32) -> String {
    format!("{}.{}", capability / 10, capability % 10)
}

/// `CUDA_COMPUTE_CAP=…` for a build that also has SASS for `capability`.
fn setting(built: &[u32], capability: u32) -> String {
    let mut list = built.to_vec();
    list.push(capability);
    list.sort_unstable();
    list.dedup();
    let list: Vec<String> = list.iter().map(u32::to_string).collect();
    format!("CUDA_COMPUTE_CAP={}", list.join(","))
}

impl Choice {
    /// Why there is no SASS for the device, and how to get it; empty if there is.
    pub(crate) fn why_not_sass(&self) -> String {
        match self.sass {
            Ok(_) => String::new(),
            Err(NoSass::Architecture) => format!(
                "this build of Kiln has no SASS for compute capability {}; built with {} it would have",
                dotted(self.capability),
                setting(&self.built, self.capability)
            ),
            Err(NoSass::Driver { driver, toolkit }) => format!(
                "the SASS of this build of Kiln is of CUDA {}, and the driver, of CUDA {}, is of an earlier major \
                 release; a newer driver loads it, and so does this one if Kiln is built with nvcc of CUDA {}",
                release(toolkit, 1000),
                release(driver, 1000),
                driver / 1000
            ),
        }
    }

    /// What the user can do about an image that the driver refuses with this code.
    pub(crate) fn advice(&self, code: u32) -> String {
        let why = self.why_not_sass();
        match code {
            221 => format!(
                "the driver's compiler for PTX (libnvidia-ptxjitcompiler.so.1, a part of the driver's package) is not \
                 there, and {why}"
            ),
            223 => format!("CUDA_DISABLE_PTX_JIT keeps the driver from compiling PTX, and {why}"),
            222 => format!("the driver is too old for this PTX: update it, or note that {why}"),
            209 => format!("the GPU runs none of the images of this build, which has SASS for {:?}", self.built),
            _ => why,
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.sass, self.ptx) {
            (Ok(sass), _) => write!(f, "SASS for sm_{sass}"),
            (Err(_), ptx) => {
                write!(f, "PTX for compute_{}, compiled by the driver: {}", ptx.unwrap_or(0), self.why_not_sass())
            }
        }
    }
}

/// The folder in which the driver caches compiled kernels.
///
/// # Errors
/// The reason, if it caches nothing.
pub(crate) fn jit_cache() -> Result<PathBuf, String> {
    if env::var("CUDA_CACHE_DISABLE").is_ok_and(|value| value == "1") {
        return Err("CUDA_CACHE_DISABLE=1 turns the driver's cache off".into());
    }
    let of = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = if cfg!(windows) {
        of("APPDATA").map(|folder| folder.join("NVIDIA").join("ComputeCache"))
    } else {
        of("HOME").map(|folder| folder.join(".nv").join("ComputeCache"))
    };
    let folder = of("CUDA_CACHE_PATH").or(home).ok_or("neither CUDA_CACHE_PATH nor HOME is set")?;
    // The driver would create the folder as well.
    let trial = folder.join(format!("kiln-{}", process::id()));
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&trial, []));
    // A leftover file does no harm.
    let _ = fs::remove_file(&trial);
    match written {
        Ok(()) => Ok(folder),
        Err(error) => Err(format!("the driver's cache {} cannot be written: {error}", folder.display())),
    }
}

/// The message for a user who waits for the driver's compiler.
pub(crate) fn jit_note(choice: &Choice) -> String {
    let kept = match jit_cache() {
        Ok(folder) => format!("The driver keeps what it has compiled in {}", folder.display()),
        Err(reason) => format!(
            "Each process compiles it again, because {reason}. Set CUDA_CACHE_PATH to a folder on a local disk that can \
             be written"
        ),
    };
    let why = choice.why_not_sass();
    let because = if why.is_empty() { String::new() } else { format!(", because {why}") };
    format!("the driver compiles Kiln's kernels from PTX{because}. {kept}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(sass: &[u32], ptx: &[u32]) -> Vec<Image> {
        let image = |code, &capability| Image { file: "fill", code, capability, len: 0, compressed: &[] };
        let sass = sass.iter().map(|capability| image(Code::Sass, capability));
        sass.chain(ptx.iter().map(|capability| image(Code::Ptx, capability))).collect()
    }

    /// What a build with the default architectures loads, assembled by CUDA 13.5.
    fn default(capability: u32, driver: i32) -> Result<u32, NoSass> {
        let choice = choose(&images(&[80, 86, 89, 90, 100, 120], &[80]), 13050, capability, driver).unwrap();
        assert_eq!(choice.ptx, Some(80));
        choice.sass
    }

    #[test]
    fn devices_run_the_latest_sass_of_their_major_version() {
        for (capability, sass) in [(80, 80), (86, 86), (89, 89), (90, 90), (100, 100), (103, 100), (120, 120)] {
            assert_eq!(default(capability, 13000), Ok(sass));
        }
        assert_eq!(default(121, 13000), Ok(120));
        // Newer than all of them, between two majors, and a Jetson.
        for capability in [87, 110, 130] {
            assert_eq!(default(capability, 13000), Err(NoSass::Architecture));
        }
        let jetson = choose(&images(&[80, 87], &[80]), 13050, 87, 13000).unwrap();
        assert_eq!(jetson.sass, Ok(87));
        let desktop = choose(&images(&[80, 87], &[80]), 13050, 89, 13000).unwrap();
        assert_eq!(desktop.sass, Ok(80), "not Jetson's");
        let error = choose(&images(&[80, 90], &[80]), 13050, 75, 13000).unwrap_err();
        for part in ["compute capability is 7.5", "kernels for 8.0", "CUDA_COMPUTE_CAP=75,80,90"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(choose(&[], 0, 90, 13000).unwrap_err().contains("nvcc"));
    }

    #[test]
    fn drivers_of_an_earlier_major_release_get_ptx() {
        assert_eq!(default(90, 13000), Ok(90), "an older minor release");
        assert_eq!(default(90, 14020), Ok(90));
        assert_eq!(default(90, 12080), Err(NoSass::Driver { driver: 12080, toolkit: 13050 }));
        let old = choose(&images(&[90], &[90]), 12030, 90, 12000).unwrap();
        assert_eq!(old.to_string(), "SASS for sm_90");
        let text = choose(&images(&[80], &[80]), 13050, 86, 12080).unwrap().to_string();
        for part in ["PTX for compute_80", "is of CUDA 13.5", "of CUDA 12.8", "nvcc of CUDA 12"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn refusals_come_with_a_way_out() {
        let choice = choose(&images(&[80, 90], &[80]), 13050, 120, 13000).unwrap();
        for (code, parts) in [
            (221, ["libnvidia-ptxjitcompiler.so.1", "CUDA_COMPUTE_CAP=80,90,120"]),
            (223, ["CUDA_DISABLE_PTX_JIT", "CUDA_COMPUTE_CAP=80,90,120"]),
            (222, ["update it", "CUDA_COMPUTE_CAP=80,90,120"]),
            (209, ["none of the images", "[80, 90]"]),
        ] {
            let text = choice.advice(code);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
