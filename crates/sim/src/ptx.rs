//! A parser for the PTX directives that a driver checks: version, target, entries and their parameters.
use std::collections::HashMap;

/// A parsed module.
#[derive(Debug)]
pub struct Ptx {
    /// The PTX version, 78 for 7.8.
    pub version: u32,
    /// The target, 80 for `sm_80`.
    pub target: u32,
    pub entries: HashMap<String, Entry>,
}

/// A kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Bytes of each parameter.
    pub parameters: Vec<u32>,
    /// Threads that `__launch_bounds__` allows.
    pub max_threads: Option<u32>,
    /// Bytes of static shared memory.
    pub shared: u32,
}

/// Why a text is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// Not PTX at all.
    NotPtx,
    /// PTX that no compiler would accept.
    Invalid,
}

/// Parses a module.
pub fn parse(text: &str) -> Result<Ptx, Error> {
    let text = without_comments(text);
    let version = directive(&text, ".version").ok_or(Error::NotPtx)?;
    let (major, minor) = version.split_once('.').ok_or(Error::Invalid)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| Error::Invalid);
    let version = number(major)? * 10 + number(minor)?;
    let target = directive(&text, ".target").ok_or(Error::Invalid)?;
    let digits: String = target.trim_start_matches("sm_").chars().take_while(char::is_ascii_digit).collect();
    let target = number(&digits)?;
    let mut entries = HashMap::new();
    // Shared variables outside kernels belong to the kernels that use them.
    let first = text.find(".entry").unwrap_or(text.len());
    let mut globals = shared_variables(&text[..first]);
    let mut rest = &text[first..];
    while let Some(after) = rest.strip_prefix(".entry") {
        let end = after.find(".entry").unwrap_or(after.len());
        let (body, next) = after.split_at(end);
        let open = body.find('(');
        let brace = body.find('{').ok_or(Error::Invalid)?;
        let (name, parameters) = match open {
            Some(open) if open < brace => {
                let close = body.find(')').ok_or(Error::Invalid)?;
                (&body[..open], parameters(&body[open + 1..close])?)
            }
            _ => (&body[..brace], Vec::new()),
        };
        let finish = body.rfind('}').ok_or(Error::Invalid)?;
        let inside = &body[brace..finish];
        let mut shared: u32 = shared_variables(inside).iter().map(|(_, bytes)| bytes).sum();
        shared += globals.iter().filter(|(name, _)| inside.contains(name)).map(|(_, bytes)| bytes).sum::<u32>();
        let max_threads = body[..brace].split_once(".maxntid").and_then(|(_, after)| product(after));
        let name = name.split_whitespace().next().ok_or(Error::Invalid)?.to_string();
        entries.insert(name, Entry { parameters, max_threads, shared });
        globals.extend(shared_variables(&body[finish..]));
        rest = next;
    }
    Ok(Ptx { version, target, entries })
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The word after `name`.
fn directive<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split_once(name)?.1.split([' ', '\t', '\n', ',']).find(|word| !word.is_empty())
}

/// The product of `256, 1, 1`, up to the end of the line.
fn product(text: &str) -> Option<u32> {
    let line = text.lines().next()?;
    line.split(',').map(|word| word.trim().parse::<u32>().ok()).try_fold(1u32, |all, one| all.checked_mul(one?))
}

fn width(kind: &str) -> Option<u32> {
    match kind.trim_start_matches(['.', 'u', 's', 'b', 'f']) {
        "8" => Some(1),
        "16" => Some(2),
        "32" => Some(4),
        "64" => Some(8),
        _ if kind == ".pred" => Some(1),
        _ => None,
    }
}

/// Parses `.param .u64 name, .param .align 8 .b8 name[40]`.
fn parameters(text: &str) -> Result<Vec<u32>, Error> {
    text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(|one| size(one).ok_or(Error::Invalid)).collect()
}

/// Bytes of `.b8 name[40]`, after any other words.
fn size(declaration: &str) -> Option<u32> {
    let kind = declaration.split_whitespace().find(|word| width(word).is_some())?;
    let count = match declaration.split_once('[') {
        None => 1,
        Some((_, count)) => count.split(']').next()?.trim().parse().ok()?,
    };
    width(kind)?.checked_mul(count)
}

/// Names and sizes of shared variables. `extern` ones, of unknown size, count as 0.
fn shared_variables(text: &str) -> Vec<(String, u32)> {
    text.split(';')
        .filter_map(|statement| {
            let declaration = &statement[statement.find(".shared .")?..];
            let name = declaration.split('[').next()?.split_whitespace().next_back()?;
            Some((name.to_string(), size(declaration)?))
        })
        .collect()
}
