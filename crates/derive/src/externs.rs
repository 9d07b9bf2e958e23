//! Finds the name by which the crate being compiled refers to `kiln-nn`. It is read from the compiler's command line,
//! which lists every dependency by name (`--extern name=path`), including renamed ones.

use std::{env, path::Path};

/// The name by which the crate refers to the library `library`, if it is a direct dependency. `None` also if an editor
/// instead of the compiler runs the macro.
pub fn name_of(library: &str) -> Option<String> {
    find(env::args().flat_map(arguments), library)
}

/// Whether the compiler runs the macro: an editor's server has no such arguments.
pub fn is_known() -> bool {
    env::args().flat_map(arguments).any(|argument| argument.starts_with("--extern") || argument == "--crate-name")
}

/// An argument, or those in the file that it names (`@path`), one per line: this is how long command lines are passed.
fn arguments(argument: String) -> Vec<String> {
    match argument.strip_prefix('@').and_then(|path| std::fs::read_to_string(path).ok()) {
        Some(text) => text.lines().map(str::to_owned).collect(),
        None => vec![argument],
    }
}

fn find(arguments: impl Iterator<Item = String>, library: &str) -> Option<String> {
    let mut arguments = arguments;
    let mut direct = None;
    while let Some(argument) = arguments.next() {
        let value = match argument.strip_prefix("--extern") {
            Some("") => arguments.next(),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        let Some(value) = value else { continue };
        let (name, path) = value.split_once('=').unwrap_or((&value, ""));
        // Options such as `noprelude` precede the name.
        let name = name.rsplit(':').next().unwrap_or(name);
        if file_of(path) == Some(library) {
            return Some(name.to_owned());
        }
        if name == library && (path.is_empty() || file_of(path).is_none()) {
            direct = Some(name.to_owned());
        }
    }
    direct
}

/// The name of the library in a file name such as `libkiln_nn-0123456789abcdef.rlib`.
fn file_of(path: &str) -> Option<&str> {
    let stem = Path::new(path).file_stem()?.to_str()?.strip_prefix("lib")?;
    Some(stem.rsplit_once('-').map_or(stem, |(name, _)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str, library: &str) -> Option<String> {
        find(line.split(' ').map(str::to_owned), library)
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        let line = "rustc --crate-name net --extern kiln=/deps/libkiln-8d5fcdc52b608d5f.rmeta --extern rand";
        assert_eq!(found(line, "kiln").as_deref(), Some("kiln"));
        assert_eq!(found(line, "kiln_nn"), None);
        assert_eq!(found("rustc --extern=kiln_nn=C:/deps/libkiln_nn-1f.rlib", "kiln_nn").as_deref(), Some("kiln_nn"));
        assert_eq!(found("rustc --extern kiln_nn", "kiln_nn").as_deref(), Some("kiln_nn"));
        assert_eq!(found("rustc --extern", "kiln"), None);
    }

    #[test]
    fn renamed_dependencies_have_their_new_name() {
        let line =
            "rustc --extern noprelude:torch=/deps/libkiln-8d5fcdc52b608d5f.rlib --extern kiln=/deps/libclay-17.rlib";
        assert_eq!(found(line, "kiln").as_deref(), Some("torch"));
        assert_eq!(found(line, "kiln_nn"), None);
        // Another crate has the name.
        assert_eq!(found("rustc --extern kiln=/deps/libclay-17.rlib", "kiln"), None);
        // Some build systems name files differently.
        assert_eq!(found("rustc --extern kiln=/out/kiln.rlib", "kiln").as_deref(), Some("kiln"));
    }
}
