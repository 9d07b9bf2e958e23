//! Loads libraries of one major CUDA version. Those of CUDA 12 and 13 have different file names and do not work
//! together, but cuDNN has the same name for both. It reports which version it was built for (`cudnnGetCudartVersion`),
//! and its engines open cuBLASLt and NVRTC of that version by name. So cuDNN is loaded first, and decides which of the
//! others are loaded.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use kiln_dylib::Open;

use super::{blas::CublasLt, dnn::Cudnn, driver::Driver, release::release, search};

/// Each library, or the reason why it is missing. A program that needs none of them runs without.
#[derive(Debug)]
pub(crate) struct Libraries {
    pub(crate) cublas_lt: Result<CublasLt, String>,
    pub(crate) cudnn: Result<Cudnn, String>,
    pub(crate) nvrtc: Result<Nvrtc, String>,
}

/// NVRTC, which is loaded for cuDNN and not called by Kiln.
#[derive(Debug)]
pub(crate) struct Nvrtc {
    pub(crate) file: PathBuf,
    /// The version, e.g. (13, 2).
    pub(crate) version: (i32, i32),
    _open: Open,
}

/// The libraries that fit the driver, searched for once.
///
/// # Errors
/// If the installed ones cannot work together: the paths of both, and what to do.
pub(crate) fn libraries(driver: &Driver) -> Result<&'static Libraries, &'static str> {
    static LIBRARIES: OnceLock<Result<Libraries, String>> = OnceLock::new();
    LIBRARIES.get_or_init(|| Libraries::open(Some(driver))).as_ref().map_err(String::as_str)
}

impl Libraries {
    /// Opens the libraries; without a driver, any version, for a report.
    ///
    /// # Errors
    /// Those of [`libraries`].
    pub(crate) fn open(driver: Option<&Driver>) -> Result<Libraries, String> {
        // Without a driver, the newest known version.
        let served = driver.map_or(13, |driver| u32::try_from(driver.version() / 1000).unwrap_or(0)).max(12);
        let cudnn = Cudnn::open(served);
        let built_for = cudnn.as_ref().ok().and_then(Cudnn::cuda_major);
        if let (Ok(cudnn), Some(major), Some(driver)) = (&cudnn, built_for, driver) {
            serves(driver, &cudnn.described(), major)?;
        }
        let majors: Vec<u32> = built_for.map_or_else(|| (12..=served).rev().collect(), |major| vec![major]);
        let cublas_lt = CublasLt::open(&majors);
        if cublas_lt.is_err() {
            // A library of another version cannot be used, which is the reason why there seems to be none.
            let others: Vec<u32> = (12..=served.max(13)).rev().filter(|major| !majors.contains(major)).collect();
            if let Ok(other) = CublasLt::open(&others) {
                let major = other.cuda_major().unwrap_or(0);
                let described = format!("cuBLASLt {} is for CUDA {major}", other.file().display());
                match (&cudnn, driver) {
                    (Ok(cudnn), _) if built_for.is_some() => {
                        return Err(impossible(&cudnn.described(), &described, majors[0]));
                    }
                    (_, Some(driver)) => serves(driver, &described, major)?,
                    _ => {}
                }
            }
        }
        let major = majors.first().copied().unwrap_or(served);
        Ok(Libraries { cublas_lt, cudnn, nvrtc: Nvrtc::open(major) })
    }
}

/// Checks that a driver supports libraries of this major CUDA version: its own and older ones.
fn serves(driver: &Driver, described: &str, major: u32) -> Result<(), String> {
    let version = u32::try_from(driver.version()).unwrap_or(0);
    if major <= version / 1000 {
        return Ok(());
    }
    Err(too_new(described, major, version, &driver.file()))
}

fn too_new(described: &str, major: u32, driver: u32, file: &Path) -> String {
    format!(
        "{described}, and the driver {} serves CUDA {}, which is older. To fix it, update the NVIDIA display driver to one \
         for CUDA {major} (580 or newer for CUDA 13), or install the libraries for CUDA {own} (`pip install \
         nvidia-cudnn-cu{own} nvidia-cublas-cu{own}`) and, if there are several, set KILN_CUDA_PATH to their folder",
        file.display(),
        release(driver, 1000),
        own = driver / 1000,
    )
}

/// The error for two libraries that cannot be used in one process.
fn impossible(cudnn: &str, cublas_lt: &str, major: u32) -> String {
    let cublas = if major >= 13 { "nvidia-cublas".to_string() } else { format!("nvidia-cublas-cu{major}") };
    format!(
        "libraries of different major versions of CUDA do not work together: {cudnn}, {cublas_lt}. To fix it, install \
         both for one version (`pip install nvidia-cudnn-cu{major} {cublas}` brings those for CUDA {major}) and, if there \
         are several, set KILN_CUDA_PATH to their folders"
    )
}

impl Nvrtc {
    fn open(major: u32) -> Result<Nvrtc, String> {
        let version = |open: &Open| {
            let (mut major, mut minor) = (0, 0);
            // SAFETY: the type of the function, which writes two numbers.
            let code = unsafe {
                let get: unsafe extern "C" fn(*mut i32, *mut i32) -> i32 = open.get("nvrtcVersion")?;
                get(&raw mut major, &raw mut minor)
            };
            (code == 0).then_some((major, minor))
        };
        let check = |open: &Open| match version(open) {
            Some((found, minor)) if u32::try_from(found) != Ok(major) => {
                Err(format!("it is for CUDA {found}.{minor}, and CUDA {major} is needed"))
            }
            Some(_) => Ok(()),
            None => Err("it has no nvrtcVersion".into()),
        };
        let open = Open::new(&search::nvrtc(major), check)?;
        Ok(Nvrtc { file: open.file("nvrtcVersion"), version: version(&open).unwrap_or_default(), _open: open })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_that_do_not_fit_name_both_files_and_the_way_out() {
        let text = too_new("cuDNN /a/libcudnn.so.9 is for CUDA 13", 13, 12_080, Path::new("/b/libcuda.so.1"));
        for part in ["/a/libcudnn.so.9", "/b/libcuda.so.1 serves CUDA 12.8", "nvidia-cudnn-cu12", "580"] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        let text =
            impossible("cuDNN /a/libcudnn.so.9 is for CUDA 12", "cuBLASLt /c/libcublasLt.so.13 is for CUDA 13", 12);
        for part in ["/a/libcudnn.so.9", "/c/libcublasLt.so.13", "nvidia-cudnn-cu12 nvidia-cublas-cu12"] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }

    /// Where the real libraries are installed, they are of one version.
    #[test]
    fn what_is_installed_is_of_one_version() {
        let found = Libraries::open(None).unwrap();
        let (Ok(cudnn), Ok(cublas_lt), Ok(nvrtc)) = (&found.cudnn, &found.cublas_lt, &found.nvrtc) else { return };
        let major = cudnn.cuda_major();
        assert!(major.is_some() && cublas_lt.cuda_major() == major, "{found:?}");
        assert_eq!(cublas_lt.version().map(|version| version / 10_000), major);
        assert_eq!(u32::try_from(nvrtc.version.0).ok(), major);
        assert!(cudnn.file().exists() && nvrtc.file.exists());
    }
}
