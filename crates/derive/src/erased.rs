//! Splits methods that take `impl Dim`, `impl Dims`, `impl Extents` or `impl Into<…>`, so that their bodies are
//! compiled once.
//!
//! A generic method is compiled in each program that calls it, with everything in its body. So such a method is split
//! in two: a generic one-line method converts the arguments, and another one with the body takes a list of dimensions,
//! an `i64` or a shape.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::{format_ident, quote};

use crate::tokens::{collect, is_group, is_ident, is_parenthesis, is_punct};

/// A method in two parts.
pub(crate) struct Erased {
    /// The tokens before the parameters: visibility, `fn`, name.
    head: TokenStream,
    name: Ident,
    inner: Ident,
    /// `&self` and the like, if it is a method of a value.
    receiver: Option<TokenStream>,
    parameters: Vec<Parameter>,
    /// `#[cfg(…)]` attributes, which the inner part needs too.
    conditions: TokenStream,
}

struct Parameter {
    name: Ident,
    is_mut: bool,
    outer: TokenStream,
    inner: TokenStream,
    /// The conversion from the outer type to the inner one.
    argument: TokenStream,
    is_converted: bool,
}

impl Erased {
    /// Splits a method without type parameters of its own; `None` if it has no argument to convert.
    pub(crate) fn of(item: &[TokenTree], keyword: usize, parameters: usize) -> Option<Erased> {
        let TokenTree::Ident(name) = item.get(keyword + 1)? else { return None };
        let is_plain = parameters == keyword + 2 && is_parenthesis(&item[parameters]);
        if !is_plain || item[..keyword].iter().any(|token| is_ident(token, "const") || is_ident(token, "async")) {
            return None;
        }
        let TokenTree::Group(group) = &item[parameters] else { return None };
        let mut list = Vec::new();
        let mut receiver = None;
        for tokens in split_at_commas(group.stream()) {
            match Parameter::parse(&tokens) {
                Some(parameter) => list.push(parameter),
                None if tokens.iter().any(|token| is_ident(token, "self")) => receiver = Some(collect(&tokens)),
                None => return None,
            }
        }
        if !list.iter().any(|parameter| parameter.is_converted) {
            return None;
        }
        let start = (0..keyword).rev().find(|&i| is_group(&item[i]) && i > 0 && is_punct(&item[i - 1], '#'));
        let (attributes, head) = item[..keyword + 2].split_at(start.map_or(0, |last| last + 1));
        let conditions = attributes.windows(2).filter(|pair| is_punct(&pair[0], '#') && names_cfg(&pair[1]));
        let conditions = conditions.flat_map(|pair| pair.iter().cloned()).collect();
        let text = name.to_string();
        let inner = format_ident!("__{}", text.strip_prefix("r#").unwrap_or(&text), span = name.span());
        Some(Erased { head: collect(head), name: name.clone(), inner, receiver, parameters: list, conditions })
    }

    /// The outer, generic method, which converts the arguments.
    pub(crate) fn outer(&self, attributes: &TokenStream, returned: &TokenStream) -> TokenStream {
        let Erased { head, inner, receiver, .. } = self;
        let receiver_parameter = receiver.iter();
        let parameters = self.parameters.iter().map(|Parameter { name, outer, .. }| quote!(#name: #outer));
        let arguments = self.parameters.iter().map(|parameter| &parameter.argument);
        let target = if receiver.is_some() { quote!(self.) } else { quote!(Self::) };
        quote! {
            #attributes
            #[track_caller]
            #head(#(#receiver_parameter,)* #(#parameters),*) -> #returned {
                #target #inner(#(#arguments,)* ::core::panic::Location::caller())
            }
        }
    }

    /// The inner method, which takes converted arguments, up to its body.
    pub(crate) fn inner_signature(&self, returned: &TokenStream) -> TokenStream {
        let Erased { inner, receiver, conditions, name, .. } = self;
        let receiver = receiver.iter();
        let parameters = self.parameters.iter().map(|Parameter { name, is_mut, inner, .. }| {
            let mutable = is_mut.then(|| quote!(mut));
            quote!(#mutable #name: #inner)
        });
        let doc = format!("[`{name}`](Self::{name}) of converted arguments.");
        quote! {
            #[doc = #doc]
            #conditions
            #[allow(clippy::useless_conversion, clippy::too_many_arguments, clippy::used_underscore_items)]
            fn #inner(#(#receiver,)* #(#parameters,)* caller: &'static ::core::panic::Location<'static>) -> #returned
        }
    }
}

impl Parameter {
    /// Parses `name: type`; `None` for `self` and for patterns.
    fn parse(tokens: &[TokenTree]) -> Option<Parameter> {
        let (is_mut, tokens) = match tokens {
            [first, rest @ ..] if is_ident(first, "mut") => (true, rest),
            other => (false, other),
        };
        let [TokenTree::Ident(name), colon, ty @ ..] = tokens else { return None };
        if !is_punct(colon, ':') {
            return None;
        }
        let outer = collect(ty);
        // A type that a declarative macro passes on is in a group without delimiters.
        let flat = flattened(ty);
        let converted = match &flat[..] {
            [imp, TokenTree::Ident(of)] if is_ident(imp, "impl") && of == "Dim" => {
                Some((quote!(i64), quote!(#of::number(#name))))
            }
            [imp, TokenTree::Ident(of)] if is_ident(imp, "impl") && of == "Dims" => {
                Some((quote!(::kiln_backend::DimList), quote!(#of::list(&#name))))
            }
            [imp, TokenTree::Ident(of)] if is_ident(imp, "impl") && of == "Extents" => {
                Some((quote!(crate::ExtentList), quote!(#of::list(&#name))))
            }
            [imp, into, open, target @ .., close]
                if is_ident(imp, "impl") && is_ident(into, "Into") && is_punct(open, '<') && is_punct(close, '>') =>
            {
                Some((collect(target), quote!(::core::convert::Into::into(#name))))
            }
            _ => None,
        };
        let is_converted = converted.is_some();
        let (inner, argument) = converted.unwrap_or_else(|| (outer.clone(), quote!(#name)));
        Some(Parameter { name: name.clone(), is_mut, outer, inner, argument, is_converted })
    }
}

fn flattened(tokens: &[TokenTree]) -> Vec<TokenTree> {
    let mut out = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) if group.delimiter() == proc_macro2::Delimiter::None => {
                out.extend(flattened(&group.stream().into_iter().collect::<Vec<_>>()));
            }
            other => out.push(other.clone()),
        }
    }
    out
}

/// Splits parameters at the commas that are not inside angle brackets.
fn split_at_commas(tokens: TokenStream) -> Vec<Vec<TokenTree>> {
    let (mut parts, mut depth, mut after_dash) = (vec![Vec::new()], 0, false);
    for token in tokens {
        if is_punct(&token, '<') {
            depth += 1;
        } else if is_punct(&token, '>') && !after_dash {
            depth -= 1;
        }
        after_dash = is_punct(&token, '-');
        if is_punct(&token, ',') && depth == 0 {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(token);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Whether the brackets of an attribute contain `cfg(…)`.
fn names_cfg(token: &TokenTree) -> bool {
    match token {
        TokenTree::Group(group) => group.stream().into_iter().next().is_some_and(|first| is_ident(&first, "cfg")),
        _ => false,
    }
}
