//! Loading a state dict into a module.

use kiln_tensor::{ErrorKind, Result, StateDict, Tensor, no_grad};

/// What a non-strict [`load_state_dict`](crate::ModuleTree::load_state_dict) left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Names in the module without a tensor in the state dict: these kept their values.
    pub missing_keys: Vec<String>,
    /// Names that the module does not have: these were ignored.
    pub unexpected_keys: Vec<String>,
}

pub(super) fn load(module: &str, own: &StateDict, given: &StateDict, strict: bool) -> Result<LoadReport> {
    let absent = |from: &StateDict, other: &StateDict| -> Vec<String> {
        from.keys().filter(|key| !other.contains_key(*key)).cloned().collect()
    };
    let report = LoadReport { missing_keys: absent(own, given), unexpected_keys: absent(given, own) };
    let pairs: Vec<(&String, &Tensor, &Tensor)> =
        own.iter().filter_map(|(key, target)| Some((key, target, given.get(key)?))).collect();

    let mut problems = Vec::new();
    if strict && !report.missing_keys.is_empty() {
        problems.push(format!("missing: {}", with_hints(&report.missing_keys, &report.unexpected_keys)));
    }
    if strict && !report.unexpected_keys.is_empty() {
        problems.push(format!("unexpected: {}", with_hints(&report.unexpected_keys, &report.missing_keys)));
    }
    for (key, target, source) in &pairs {
        if source.shape() != target.shape() {
            problems.push(format!("\"{key}\" has shape {} there and {} in the module", source.shape(), target.shape()));
        }
    }
    if problems.is_empty() {
        // The targets are detached handles, so this does not change a leaf that requires gradients.
        no_grad(|| pairs.iter().try_for_each(|(_, target, source)| target.copy_(source)))?;
        return Ok(report);
    }
    if let Some(prefix) = shared_prefix(&report.unexpected_keys, own).filter(|_| strict) {
        problems.push(format!(
            "all unexpected names begin with \"{prefix}\": load the file with `LoadOptions::strip_prefix(\"{prefix}\")`"
        ));
    }
    let message = format!("load_state_dict: the state dict does not fit {module}:\n  {}", problems.join("\n  "));
    let LoadReport { missing_keys: missing, unexpected_keys: unexpected } = report;
    Err(ErrorKind::StateDict { missing, unexpected, message }.into())
}

/// A prefix, up to a dot, that all unexpected names share and without which one of them is a name in the module: what a
/// wrapper around the module has prepended.
fn shared_prefix<'a>(unexpected: &'a [String], own: &StateDict) -> Option<&'a str> {
    let first = unexpected.first()?;
    let prefixes = first.match_indices('.').map(|(dot, _)| &first[..=dot]);
    let fits = |prefix: &&str| {
        let stripped = |name: &String| name.strip_prefix(prefix).map(|rest| own.contains_key(rest));
        let found: Option<Vec<bool>> = unexpected.iter().map(stripped).collect();
        found.is_some_and(|found| found.contains(&true))
    };
    prefixes.take(8).find(fits)
}

/// Maximum number of hints: they cost time for each pair of names, and nobody would read more.
const HINTS: usize = 20;
const CANDIDATES: usize = 1000;

/// The names, each with the closest of `others` if one is close.
fn with_hints(names: &[String], others: &[String]) -> String {
    let others = &others[..others.len().min(CANDIDATES)];
    let show = |(i, name): (usize, &String)| match (i < HINTS).then(|| nearest(name, others)).flatten() {
        Some(other) => format!("\"{name}\" (\"{other}\"?)"),
        _ => format!("\"{name}\""),
    };
    names.iter().enumerate().map(show).collect::<Vec<_>>().join(", ")
}

/// The name with the smallest edit distance, if that is at most a third of the letters; or one that only has another
/// prefix (such as `module.` or `model.` before every name).
pub(super) fn nearest<'a>(name: &str, others: &'a [String]) -> Option<&'a String> {
    let has_suffix = |other: &&String| other.ends_with(&format!(".{name}")) || name.ends_with(&format!(".{other}"));
    let near = || {
        let edits = |other: &'a String| (edit_distance(name, other), other);
        others.iter().map(edits).min_by_key(|(edits, _)| *edits).filter(|(edits, _)| *edits * 3 <= name.len())
    };
    others.iter().find(has_suffix).or_else(|| near().map(|(_, other)| other))
}

/// Levenshtein's distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
