//! NVIDIA's shared libraries: their file names, and how to install them.

use std::env::consts::OS;

use kiln_dylib::{Spec, Wanted};

pub(crate) fn driver() -> Spec {
    let names: &[&str] = if OS == "windows" { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
    Spec {
        title: "the NVIDIA driver (libcuda)",
        fix: "install the NVIDIA display driver, version 525 (CUDA 12.0) or newer; in a container, start it with GPU \
              access (e.g. `docker run --gpus all`)"
            .into(),
        needs: "CUDA 12.0",
        names: names.iter().map(ToString::to_string).collect(),
        wanted: Wanted::Driver,
    }
}

/// `-cu12` in the names of wheels for CUDA 12; those for CUDA 13 have no such suffix.
fn ending(major: u32) -> String {
    if major >= 13 { String::new() } else { format!("-cu{major}") }
}

/// cuBLASLt of one of these major CUDA versions, the preferred one first.
pub(crate) fn cublas_lt(majors: &[u32]) -> Spec {
    let preferred = majors.first().copied().unwrap_or(12);
    Spec {
        title: "cuBLASLt",
        fix: format!(
            "install the CUDA toolkit {preferred}, or `pip install nvidia-cublas{}`, or set KILN_CUDA_PATH to the folder \
             that holds it",
            ending(preferred)
        ),
        needs: "CUDA 12.0",
        names: of_majors(majors, |major| format!("cublasLt64_{major}.dll"), "libcublasLt.so"),
        wanted: Wanted::Toolkit,
    }
}

/// NVRTC of a major CUDA version.
pub(crate) fn nvrtc(major: u32) -> Spec {
    Spec {
        title: "NVRTC",
        fix: format!("install the CUDA toolkit {major}, or `pip install nvidia-cuda-nvrtc{}`", ending(major)),
        needs: "CUDA 12.0",
        names: of_majors(&[major], |major| format!("nvrtc64_{major}0_0.dll"), "libnvrtc.so"),
        wanted: Wanted::Toolkit,
    }
}

/// NCCL, which has one name for all major versions of CUDA.
pub(crate) fn nccl() -> Spec {
    Spec {
        title: "NCCL",
        fix: "`pip install nvidia-nccl-cu13` (or `-cu12`, if the driver is older than 580), or install NCCL \
              (<https://developer.nvidia.com/nccl>) and set KILN_CUDA_PATH to the folder that holds it"
            .into(),
        needs: "NCCL 2.10",
        names: vec!["libnccl.so.2".into(), "libnccl.so".into()],
        wanted: Wanted::Toolkit,
    }
}

fn of_majors(majors: &[u32], windows: impl Fn(&u32) -> String, linux: &str) -> Vec<String> {
    if OS == "windows" {
        return majors.iter().map(windows).collect();
    }
    majors.iter().map(|major| format!("{linux}.{major}")).chain([linux.into()]).collect()
}

/// cuDNN 9, for a driver that supports this major CUDA version.
pub(crate) fn cudnn(major: u32) -> Spec {
    let names: &[&str] = if OS == "windows" { &["cudnn64_9.dll"] } else { &["libcudnn.so.9", "libcudnn.so"] };
    Spec {
        title: "cuDNN",
        fix: format!(
            "install cuDNN 9 for CUDA {major} (<https://developer.nvidia.com/cudnn>), or `pip install \
             nvidia-cudnn-cu{major}`, or set KILN_CUDA_PATH to the folder that holds it"
        ),
        needs: "cuDNN 9.1",
        names: names.iter().map(ToString::to_string).collect(),
        wanted: Wanted::Cudnn,
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::{
        ffi::OsString,
        fs,
        path::{Path, PathBuf},
    };

    use kiln_dylib::{Environment, ORDER, Place, find, places};

    use super::*;

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    fn search(
        variables: &[(&str, OsString)],
        spec: &Spec,
        loads: &dyn Fn(&Path) -> Result<(), String>,
    ) -> Result<PathBuf, String> {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        find(spec, &Environment { variable: &variable }, loads).map(|(_, path)| path)
    }

    fn absent(path: &Path) -> Result<(), String> {
        if path.is_absolute() {
            return Ok(());
        }
        Err(format!("{}: cannot open shared object file: No such file or directory", path.display()))
    }

    /// A machine on which each source of the table has its own cuDNN: the search order is that of the table.
    #[test]
    fn places_are_asked_in_the_order_of_the_table() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let site = "lib/python3.12/site-packages/nvidia/cudnn/lib/libcudnn.so.9";
        let mut expected = vec![
            ("KILN_CUDA_PATH", at("own"), at("own/lib64/libcudnn.so.9")),
            ("LD_LIBRARY_PATH", at("loader"), at("loader/libcudnn.so.9")),
            ("CUDNN_PATH", at("cudnn"), at("cudnn/lib/libcudnn.so.9")),
            ("CUDNN_HOME", at("dnn"), at("dnn/lib64/libcudnn.so.9")),
            ("CUDA_HOME", at("cuda"), at("cuda/lib64/libcudnn.so.9")),
            ("CUDA_PATH", at("toolkit"), at("toolkit/targets/x86_64-linux/lib/libcudnn.so.9")),
            ("VIRTUAL_ENV", at("venv"), at("venv").join(site)),
            ("CONDA_PREFIX", at("conda"), at("conda/lib/libcudnn.so.9")),
            ("PATH", at("py/bin"), at("py").join(site)),
            ("HOME", at("home"), at("home/.local").join(site)),
        ];
        touch(&at("py/bin/python3"));
        let mut variables: Vec<(&str, OsString)> = Vec::new();
        for (name, value, file) in &expected {
            touch(file);
            variables.push((name, value.clone().into_os_string()));
        }
        let spec = cudnn(13);
        // What the loader finds comes after what the user names, and before what merely exists.
        let loader = expected.iter().position(|(name, ..)| *name == "PATH").unwrap();
        for (i, (name, _, file)) in expected.iter().enumerate() {
            assert_eq!(&search(&variables[i..], &spec, &absent).unwrap(), file, "{name}");
            let any = |_: &Path| Ok(());
            let found = search(&variables[i..], &spec, &any).unwrap();
            assert_eq!(found, if i < loader { file.clone() } else { "libcudnn.so.9".into() }, "{name}");
        }
        // A conda environment's wheels count as well.
        fs::remove_file(&expected.remove(7).2).unwrap();
        touch(&at("conda").join(site));
        let conda = [("CONDA_PREFIX", at("conda").into_os_string())];
        assert_eq!(search(&conda, &spec, &absent).unwrap(), at("conda").join(site));
        // The folder of all wheels, named by the user.
        let nvidia = [("KILN_CUDA_PATH", at("conda/lib/python3.12/site-packages/nvidia").into_os_string())];
        assert_eq!(search(&nvidia, &spec, &absent).unwrap(), at("conda").join(site));
        // The user base can be elsewhere.
        touch(&at("base").join(site));
        let base = [("PYTHONUSERBASE", at("base").into_os_string()), variables[9].clone()];
        assert_eq!(search(&base, &spec, &absent).unwrap(), at("base").join(site));
    }

    #[test]
    fn versions_count_for_more_than_places_but_not_for_more_than_the_users_word() {
        let dir = tempfile::tempdir().unwrap();
        let (own, home, venv) = (dir.path().join("own"), dir.path().join("cuda"), dir.path().join("venv"));
        let wheel = venv.join("lib/python3.12/site-packages/nvidia/cu13/lib/libcublasLt.so.13");
        touch(&own.join("lib64/libcublasLt.so"));
        touch(&home.join("lib64/libcublasLt.so.12"));
        touch(&wheel);
        let all = [
            ("KILN_CUDA_PATH", own.clone().into_os_string()),
            ("CUDA_HOME", home.clone().into_os_string()),
            ("VIRTUAL_ENV", venv.into_os_string()),
        ];
        let spec = cublas_lt(&[13, 12]);
        assert_eq!(search(&all, &spec, &absent).unwrap(), own.join("lib64/libcublasLt.so"));
        assert_eq!(search(&all[1..], &spec, &absent).unwrap(), wheel);
        assert_eq!(search(&all[1..], &cublas_lt(&[12]), &absent).unwrap(), home.join("lib64/libcublasLt.so.12"));
        // A rejected library is skipped, and named only if nothing else is found.
        let no_wheels = |path: &Path| if path == wheel { Err("it is of CUDA 13".into()) } else { absent(path) };
        assert_eq!(search(&all[1..], &spec, &no_wheels).unwrap(), home.join("lib64/libcublasLt.so.12"));
    }

    #[test]
    fn the_error_names_library_names_places_refusals_and_fix() {
        let dir = tempfile::tempdir().unwrap();
        let (own, home) = (dir.path().join("missing"), dir.path().join("cuda"));
        touch(&home.join("lib64/libcublasLt.so.13"));
        let variables = [
            ("KILN_CUDA_PATH", own.into_os_string()),
            ("CUDA_PATH", home.into_os_string()),
            ("HOME", "/nowhere".into()),
        ];
        let broken = |path: &Path| match path.is_absolute() {
            true => Err("wrong ELF class".to_string()),
            // Found by the loader, but broken.
            false if path.ends_with("libcublasLt.so.12") => {
                Err("libcublasLt.so.12: version GLIBC_2.99 not found".into())
            }
            false => absent(path),
        };
        let text = search(&variables, &cublas_lt(&[13, 12]), &broken).unwrap_err();
        for part in [
            "cuBLASLt was not found",
            "libcublasLt.so.13, libcublasLt.so.12, libcublasLt.so",
            "the loader's path",
            "missing, which has no such folder",
            "cuda/lib64 (CUDA_PATH)",
            "libcublasLt.so.13 is not taken: wrong ELF class",
            "libcublasLt.so.12 is not taken: libcublasLt.so.12: version GLIBC_2.99 not found",
            "pip install nvidia-cublas`",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        assert!(!text.contains("libcublasLt.so is not taken"), "{text}");
        let none = |_: &Path| Err("none".to_string());
        let text = search(&[], &cublas_lt(&[12]), &none).unwrap_err();
        assert!(text.contains("pip install nvidia-cublas-cu12"), "{text}");
        let text = search(&[], &driver(), &none).unwrap_err();
        assert!(text.contains("libcuda.so.1, libcuda.so") && text.contains("525"), "{text}");
        let text = search(&[], &cudnn(12), &none).unwrap_err();
        assert!(text.contains("pip install nvidia-cudnn-cu12"), "{text}");
    }

    /// nvcc is searched for in the same order, in program folders.
    #[test]
    fn the_compiler_is_sought_in_the_order_of_the_libraries() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let wheel = "lib/python3.12/site-packages/nvidia/cu13/bin";
        let folders = [
            ("KILN_CUDA_PATH", at("own"), at("own/bin")),
            ("CUDA_HOME", at("cuda"), at("cuda/bin")),
            ("CUDA_PATH", at("toolkit"), at("toolkit/bin")),
            ("VIRTUAL_ENV", at("venv"), at("venv").join(wheel)),
            ("CONDA_PREFIX", at("conda"), at("conda/bin")),
            ("PATH", at("py/bin"), at("py/bin")),
            ("HOME", at("home"), at("home/.local").join(wheel)),
        ];
        touch(&at("py/bin/python3"));
        touch(&at("py").join(wheel).join("nvcc"));
        folders.iter().for_each(|(_, _, folder)| fs::create_dir_all(folder).unwrap());
        let variable = |name: &str| {
            let found = folders.iter().find(|(known, ..)| *known == name);
            found.map(|(_, value, _)| value.clone().into_os_string())
        };
        let found: Vec<PathBuf> = places(Wanted::Compiler, &Environment { variable: &variable })
            .into_iter()
            .filter_map(|place| match place {
                Place::Folder(folder, _) if folder.starts_with(dir.path()) && folder.ends_with("bin") => Some(folder),
                _ => None,
            })
            .collect();
        let mut want: Vec<PathBuf> = folders.iter().map(|(_, _, folder)| folder.clone()).collect();
        want.insert(6, at("py").join(wheel));
        assert_eq!(found, want);
    }

    #[test]
    fn python_on_the_path_leads_to_its_packages() {
        let dir = tempfile::tempdir().unwrap();
        let python = dir.path().join("py/bin/python3.11");
        touch(&python);
        let bin = dir.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(&python, bin.join("python3")).unwrap();
        let wheel = dir.path().join("py/lib/python3.11/site-packages/nvidia/cublas/lib/libcublasLt.so.12");
        touch(&wheel);
        let path = [("PATH", bin.into_os_string())];
        let found = search(&path, &cublas_lt(&[12]), &absent);
        assert_eq!(fs::canonicalize(found.unwrap()).unwrap(), fs::canonicalize(wheel).unwrap());
        // A version manager's launcher leads to the versions, the newest first.
        let manager = dir.path().join("pyenv");
        touch(&manager.join("shims/python3"));
        for version in ["3.9.1", "3.13.2"] {
            let minor = version.rsplit_once('.').unwrap().0;
            let site =
                format!("versions/{version}/lib/python{minor}/site-packages/nvidia/cublas/lib/libcublasLt.so.12");
            touch(&manager.join(site));
        }
        let path = [("PATH", manager.join("shims").into_os_string())];
        let found = search(&path, &cublas_lt(&[12]), &absent).unwrap();
        assert!(found.starts_with(manager.join("versions/3.13.2")), "{}", found.display());
    }

    /// The documentation's table is that of the code.
    #[test]
    fn the_documentation_has_the_order() {
        // In a package of the crate alone there is no documentation, nor is there where the tests were moved after the
        // build.
        let Some(package) = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from) else { return };
        let Ok(text) = fs::read_to_string(package.join("../../docs/gpu.md")) else { return };
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
        for (i, source) in ORDER.iter().enumerate() {
            let name = source.to_string();
            let row = rows.iter().find(|row| row.starts_with(&format!("| {} |", i + 1)));
            assert!(row.is_some_and(|row| row.contains(&name)), "row {} of docs/gpu.md is not {name}", i + 1);
        }
        assert!(!rows.iter().any(|row| row.starts_with(&format!("| {} |", ORDER.len() + 1))));
    }
}
