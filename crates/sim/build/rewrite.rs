//! Source rewriting for what C++ macros cannot do: turns `__shared__` declarations into slots of the block's memory,
//! and finds the kernels. Works on preprocessed text, which includes kernels that macros generate.

/// Text for a C++ compiler, and the names of the kernels in it.
pub struct Kernels {
    pub text: String,
    pub entries: usize,
}

pub fn rewrite(text: &str) -> Result<Kernels, String> {
    let mut out = String::with_capacity(text.len());
    let mut entries = 0;
    let mut rest = text;
    while let Some((at, word)) = next_word(rest) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        if word == "__global__" {
            out.push_str(before);
            if !out.trim_end().ends_with("extern \"C\"") {
                return Err(format!("a kernel that is not `extern \"C\"` cannot be found by name: {}", head(after)));
            }
            let (name, end) = entry(after)?;
            // Declared and registered here, because it may be in a namespace.
            out.push_str(&format!(
                "{declaration}; static const ::sim::Register sim_row_{name}(::sim::entry<&{name}>(\"{name}\")); \
                 extern \"C\" {declaration}",
                declaration = after[..end].trim()
            ));
            entries += 1;
            rest = &after[end..];
        } else {
            let end = after.find(';').ok_or("a __shared__ declaration that does not end")?;
            let trimmed = before.trim_end();
            let dynamic = trimmed.ends_with("extern");
            out.push_str(if dynamic { &trimmed[..trimmed.len() - "extern".len()] } else { before });
            out.push_str(&declaration(&after[..end], dynamic)?);
            rest = &after[end..];
        }
    }
    out.push_str(rest);
    Ok(Kernels { text: out, entries })
}

/// The first of the two words that are rewritten.
fn next_word(text: &str) -> Option<(usize, &'static str)> {
    ["__global__", "__shared__"].into_iter().filter_map(|word| Some((text.find(word)?, word))).min()
}

fn head(text: &str) -> String {
    text.trim_start().chars().take(60).collect()
}

/// The name in `void name(…)`, or in `void __attribute__(…) name(…)`, and the end of the declaration.
fn entry(text: &str) -> Result<(String, usize), String> {
    let missing = || format!("a kernel without a body: {}", head(text));
    let body = text.find('{').ok_or_else(missing)?;
    let close = text[..body].rfind(')').ok_or_else(missing)?;
    let mut depth = 0i32;
    // The last parenthesis closes the parameters.
    let open = text[..=close].char_indices().rev().find(|(_, letter)| {
        depth += match letter {
            ')' => 1,
            '(' => -1,
            _ => 0,
        };
        depth == 0
    });
    let open = open.ok_or_else(missing)?.0;
    let name: String = text[..open].split_whitespace().next_back().unwrap_or_default().to_string();
    let plain = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if plain { Ok((name, close + 1)) } else { Err(format!("no kernel's name in: {}", head(text))) }
}

/// Rewrites `alignas(16) float tile[8][32]` to a reference to a slot, or with `dynamic` to a pointer.
fn declaration(text: &str, dynamic: bool) -> Result<String, String> {
    let mut text = text.trim().to_string();
    let mut alignment = None;
    for (opening, closing) in [("alignas(", ")"), ("__attribute__((aligned(", ")))")] {
        while let Some(at) = text.find(opening) {
            let end = text[at..].find(closing).ok_or("an alignment without an end")? + at;
            alignment = Some(text[at + opening.len()..end].trim().to_string());
            text.replace_range(at..end + closing.len(), "");
        }
    }
    let text = text.trim();
    let (head, dims) = match text.find('[') {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    if top_level_comma(text) || text.contains('=') {
        return Err(format!("`__shared__ {text}`: one variable per declaration, without a value"));
    }
    let head = head.trim_end();
    let start = head.rfind(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')).map_or(0, |at| at + 1);
    let (kind, name) = (head[..start].trim(), &head[start..]);
    if kind.is_empty() || name.is_empty() {
        return Err(format!("`__shared__ {text}`: no declaration that the simulator understands"));
    }
    let alignment = alignment.unwrap_or_else(|| format!("alignof({kind})"));
    Ok(if dynamic {
        format!("auto *const {name} = static_cast<std::add_pointer_t<{kind}>>(::sim::dynamic_shared({alignment}))")
    } else {
        // The lambda is different in each place and in each instantiation of a template, and so is its `key`.
        format!(
            "auto &{name} = *static_cast<std::add_pointer_t<{kind}{dims}>>(::sim::shared_slot(\
             [] {{ static const char key = 0; return &key; }}(), sizeof({kind}{dims}), {alignment}, \"{name}\"))"
        )
    })
}

fn top_level_comma(text: &str) -> bool {
    let mut depth = 0i32;
    text.chars().any(|letter| {
        match letter {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    })
}
