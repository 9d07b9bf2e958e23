//! `cargo sim --coverage`: kernels and library functions that no test has executed.
use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

/// The names of the functions that a table of `crates/cuda` declares.
macro_rules! functions {
    ($(#[$meta:meta])* $table:ident: $status:ty as $raw:ty, $sys:path;
     $($([unchecked])? $field:ident = $symbol:ident($($arguments:tt)*);)*) => {
        [$(stringify!($symbol)),*]
    };
}

/// The functions that the backend calls.
fn declared() -> BTreeSet<String> {
    let driver = include!("../../cuda/src/libs/driver_functions.rs");
    let blas = include!("../../cuda/src/libs/blas_functions.rs");
    let dnn = include!("../../cuda/src/libs/dnn_functions.rs");
    driver.into_iter().chain(blas).chain(dnn).map(str::to_string).collect()
}

/// The strings of a list in a report: `"kernels": ["one", "two"]`, on a line of its own.
fn list<'a>(report: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let start = format!("\"{name}\": [");
    let line = report.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default();
    line.trim_end_matches([',', ']']).split(", ").map(|text| text.trim_matches('"'))
}

/// Prints the kernels and functions that no report in a folder mentions, and counts them.
pub fn missing(reports: &Path) -> io::Result<usize> {
    let (mut kernels, mut functions) = (BTreeSet::from_iter(kiln_sim::kernel_names()), declared());
    if kernels.is_empty() || functions.is_empty() {
        return Err(io::Error::other("there are no kernels, or no functions, to look for"));
    }
    let all = (kernels.len(), functions.len());
    for entry in fs::read_dir(reports)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let report = fs::read_to_string(path)?;
            for (names, kind) in [(&mut kernels, "kernels"), (&mut functions, "functions")] {
                for name in list(&report, kind) {
                    names.remove(name);
                }
            }
        }
    }
    for (what, names) in [("kernel", &kernels), ("function", &functions)] {
        names.iter().for_each(|name| eprintln!("! no test has executed the {what} {name}"));
    }
    let executed = (all.0 - kernels.len(), all.1 - functions.len());
    eprintln!(
        "simulated device: {} of {} kernels and {} of {} functions were executed",
        executed.0, all.0, executed.1, all.1
    );
    Ok(kernels.len() + functions.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_lists_are_read() {
        let declared = declared();
        assert!(
            ["cuLaunchKernel", "cublasLtMatmul", "cudnnBackendExecute"].iter().all(|name| declared.contains(*name))
        );
        let report = "{\"findings\": [],\n\"kernels\": [\"a_b\", \"c\"],\n\"functions\": [],\n";
        assert_eq!(list(report, "kernels").collect::<Vec<_>>(), ["a_b", "c"]);
        assert_eq!(list(report, "functions").collect::<Vec<_>>(), [""]);
    }
}
