//! Finds the files from which the process has loaded its libraries, as listed by the kernel.

use std::{fs, path::PathBuf};

/// Prefixes of the file names of NVIDIA's libraries.
const PREFIXES: [&str; 6] = ["libcuda.so", "libcublas", "libcudnn", "libnvrtc", "libnccl", "libkiln_sim"];

/// A mapped file with the addresses that it covers.
struct Mapping {
    begin: usize,
    end: usize,
    file: PathBuf,
}

/// The mapped files; empty where the system does not list them (anywhere but Linux).
fn mappings() -> Vec<Mapping> {
    let text = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    text.lines().filter_map(mapping).collect()
}

/// Parses a line such as `7f00-7f10 r-xp 00000000 08:01 1234   /usr/lib/libx.so`.
fn mapping(line: &str) -> Option<Mapping> {
    let (begin, rest) = line.split_once('-')?;
    let (end, rest) = rest.split_once(' ')?;
    let file = &rest[rest.find('/')?..];
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(Mapping { begin: address(begin)?, end: address(end)?, file: file.into() })
}

/// The file that holds the code at an address.
pub fn file_of(address: usize) -> Option<PathBuf> {
    mappings().into_iter().find(|mapping| (mapping.begin..mapping.end).contains(&address)).map(|mapping| mapping.file)
}

/// The files of all NVIDIA libraries that are loaded, whoever loaded them.
pub fn nvidia_files() -> Vec<PathBuf> {
    let of_nvidia = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let mut files: Vec<PathBuf> = mappings().into_iter().map(|mapping| mapping.file).filter(of_nvidia).collect();
    files.sort_unstable();
    files.dedup();
    files
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn code_is_traced_to_its_file() {
        let own = file_of(file_of as *const () as usize).unwrap();
        assert_eq!(own, std::env::current_exe().unwrap());
        assert_eq!(file_of(8), None);
        let line = "7f10a000-7f10c000 r-xp 00001000 08:02 77 /opt/a folder/libcudnn.so.9";
        let parsed = mapping(line).unwrap();
        assert_eq!((parsed.begin, parsed.end), (0x7f10_a000, 0x7f10_c000));
        assert_eq!(parsed.file, PathBuf::from("/opt/a folder/libcudnn.so.9"));
        assert!(mapping("7ffc000-7ffd000 rw-p 00000000 00:00 0 [stack]").is_none());
    }
}
