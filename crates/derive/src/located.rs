//! Expands `#[located]`: an error that leaves a public function carries the line outside Kiln that called it.
//!
//! Each function becomes `#[track_caller]`, and its errors pass through `Error::called_from`; this costs nothing unless
//! there is an error. Functions are found by their tokens and their bodies are not parsed, to save compile time: the
//! macro processes all of `kiln-tensor`. In the crates that compute, a function that runs is also known to anomaly mode
//! (`kiln_backend::call_sites`), which costs a load unless a thread is in that mode.
//!
//! A method with arguments such as `impl Dims` is split in two: one that converts them, and one with the body, which
//! takes the converted arguments ([`erased`](crate::erased)).

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};
use quote::quote;

use crate::{
    erased::Erased,
    tokens::{collect, is_group, is_ident, is_parenthesis, is_punct},
};

/// What is added to an error besides the line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The name of this function, in place of the public one of Kiln that failed inside it.
    Operation,
    /// Nothing.
    Site,
    /// The layer that failed, and the layer's hooks: for `impl Module for …`.
    Module,
}

pub(crate) fn expand(arguments: &TokenStream, input: TokenStream) -> Result<TokenStream, String> {
    let mode = match arguments.to_string().as_str() {
        "" => Mode::Operation,
        "site" => Mode::Site,
        "module" => Mode::Module,
        other => return Err(format!("`#[located]`, `#[located(site)]` or `#[located(module)]`, not `{other}`")),
    };
    let mut tokens: Vec<TokenTree> = input.into_iter().collect();
    // The functions of a trait are public without `pub`.
    let of_trait = tokens.iter().any(|token| is_ident(token, "for") || is_ident(token, "trait"));
    if !of_trait && !tokens.iter().any(|token| is_ident(token, "impl")) {
        return Ok(wrap_items(tokens, mode, false));
    }
    let Some(TokenTree::Group(body)) = tokens.pop() else { return Err("an impl block has a body".into()) };
    let mut wrapped = Group::new(Delimiter::Brace, wrap_items(body.stream().into_iter().collect(), mode, of_trait));
    wrapped.set_span(body.span());
    tokens.push(wrapped.into());
    Ok(tokens.into_iter().collect())
}

/// Wraps items, each of which ends with braces (a function's body) or a semicolon.
fn wrap_items(tokens: Vec<TokenTree>, mode: Mode, of_trait: bool) -> TokenStream {
    let mut out = TokenStream::new();
    let mut item = Vec::new();
    for token in tokens {
        let ends = match &token {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Punct(punct) => punct.as_char() == ';',
            _ => false,
        };
        item.push(token);
        if ends {
            let item = std::mem::take(&mut item);
            out.extend(wrap(&item, mode, of_trait).unwrap_or_else(|| item.into_iter().collect()));
        }
    }
    out.extend(item);
    out
}

/// Wraps an item so that its errors are located; `None` unless it is a public function that can fail.
fn wrap(item: &[TokenTree], mode: Mode, of_trait: bool) -> Option<TokenStream> {
    let (TokenTree::Group(body), signature) = item.split_last()? else { return None };
    let keyword = signature.iter().position(|token| is_ident(token, "fn"))?;
    let TokenTree::Ident(name) = signature.get(keyword + 1)? else { return None };
    // `pub(crate)` is followed by a group.
    let is_public = signature[..keyword].windows(2).any(|pair| is_ident(&pair[0], "pub") && !is_group(&pair[1]))
        || keyword.checked_sub(1).is_some_and(|before| is_ident(&signature[before], "pub"));
    if !(is_public || of_trait) {
        return None;
    }
    let parameters =
        (keyword..signature.len()).find(|&i| is_parenthesis(&signature[i]) && !is_bound(&signature[keyword..i]))?;
    let [first, second, returned @ ..] = &signature[parameters + 1..] else { return None };
    if !(is_punct(first, '-') && is_punct(second, '>')) {
        return None;
    }
    let end = returned.iter().position(|token| is_ident(token, "where")).unwrap_or(returned.len());
    let returned = &returned[..end];
    // The type's own name, without its generic arguments.
    let path = returned.split(|token| is_punct(token, '<')).next()?;
    if !path.last().is_some_and(|token| is_ident(token, "Result")) || returned.iter().any(is_beyond_closures) {
        return None;
    }
    let signature_parameters = signature[parameters].clone();
    // Attributes and documentation come first.
    let start = (0..keyword).rev().find(|&i| is_group(&signature[i]) && i > 0 && is_punct(&signature[i - 1], '#'));
    let (attributes, signature) = signature.split_at(start.map_or(0, |last| last + 1));
    let (attributes, signature) = (collect(attributes), collect(signature));
    let (returned, body) = (collect(returned), body.stream());
    let operation = if mode == Mode::Operation {
        let name = name.to_string();
        let name = name.strip_prefix("r#").unwrap_or(&name);
        quote!(::core::option::Option::Some(#name))
    } else {
        quote!(::core::option::Option::None)
    };
    let body = if mode == Mode::Module { with_hooks(name, &signature_parameters, &returned, body) } else { body };
    // A summary in progress is told of each layer that runs.
    let (begins, ran) = if mode == Mode::Module {
        (quote!(let begin = crate::summary::begins();), quote!(crate::summary::ran(self, begin, &value);))
    } else {
        (TokenStream::new(), TokenStream::new())
    };
    let error = if mode == Mode::Module { quote!(crate::module::failed_in(self, error)) } else { quote!(error) };
    let erased = if mode == Mode::Operation && !of_trait { Erased::of(item, keyword, parameters) } else { None };
    let (signature, caller) = match &erased {
        Some(erased) => (erased.inner_signature(&returned), TokenStream::new()),
        None => {
            let signature = quote!(#attributes #[track_caller] #signature);
            (signature, quote!(let caller = ::core::panic::Location::caller();))
        }
    };
    let outer = erased.map(|erased| erased.outer(&attributes, &returned));
    let (entered, left) = watched(&operation);
    Some(quote! {
        #outer
        #signature {
            #caller
            #entered
            #begins
            #[allow(clippy::redundant_closure_call, clippy::needless_question_mark)]
            let result = (move || -> #returned { #body })();
            #left
            match result {
                ::core::result::Result::Ok(value) => {
                    #ran
                    ::core::result::Result::Ok(value)
                }
                ::core::result::Result::Err(error) => {
                    ::core::result::Result::Err(#error.called_from(caller, ::core::file!(), #operation))
                }
            }
        }
    })
}

/// Tells anomaly mode which functions of the crates that compute are running: before and after the body.
fn watched(operation: &TokenStream) -> (TokenStream, TokenStream) {
    let sites = match std::env::var("CARGO_PKG_NAME").as_deref() {
        Ok("kiln-tensor") => quote!(::kiln_backend::call_sites),
        Ok("kiln-nn" | "kiln-models") => quote!(::kiln_tensor::call_sites),
        _ => return (TokenStream::new(), TokenStream::new()),
    };
    (quote!(let call_depth = #sites::enter(caller, ::core::file!(), #operation);), quote!(#sites::leave(call_depth);))
}

/// The body of a method of `Module` with the layer's hooks around it: `forward` runs them, and what computes more than the
/// layer at once computes it in parts if there are any.
fn with_hooks(name: &Ident, parameters: &TokenTree, returned: &TokenStream, body: TokenStream) -> TokenStream {
    let TokenTree::Group(group) = parameters else { return body };
    // `&self, x: &Tensor`
    let input = group.stream().into_iter().skip_while(|token| !is_punct(token, ',')).nth(1);
    let Some(TokenTree::Ident(input)) = input else { return body };
    if name == "forward" {
        quote!(crate::module::hooked(self, #input, |#input: &::kiln_tensor::Tensor| -> #returned { #body }))
    } else if name == "forward_relu" {
        quote!(if crate::module::is_hooked(self) { return self.forward(#input)?.relu(); } #body)
    } else {
        body
    }
}

/// Whether angle brackets are open after these tokens: a parenthesis there belongs to the bound of a type parameter.
fn is_bound(tokens: &[TokenTree]) -> bool {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate() {
        let is_arrow = i > 0 && is_punct(&tokens[i - 1], '-');
        if is_punct(token, '<') {
            depth += 1;
        } else if is_punct(token, '>') && !is_arrow {
            depth -= 1;
        }
    }
    depth > 0
}

/// Types that a closure's signature cannot repeat: borrows from arguments, and `impl Trait`.
fn is_beyond_closures(token: &TokenTree) -> bool {
    match token {
        TokenTree::Ident(ident) => ident == "impl",
        TokenTree::Punct(punct) => matches!(punct.as_char(), '&' | '\''),
        TokenTree::Group(group) => group.stream().into_iter().any(|token| is_beyond_closures(&token)),
        TokenTree::Literal(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &str, source: &str) -> String {
        expand(&arguments.parse().unwrap(), source.parse().unwrap()).unwrap().to_string().replace(' ', "")
    }

    #[test]
    fn public_functions_that_can_fail_are_wrapped() {
        let out = run(
            "",
            "impl Tensor {
                /// Doc.
                pub fn outer(&self, f: impl Fn() -> u8) -> Result<Tensor> where Self: Sized { self.inner()? }
                pub(crate) fn inner(&self) -> Result<Tensor> { body() }
                pub fn len(&self) -> usize { 0 }
                pub fn borrow(&self) -> Result<&str> { Ok(\"\") }
            }",
        );
        assert_eq!(out.matches("track_caller").count(), 1, "{out}");
        assert!(out.contains("#[doc=\"Doc.\"]#[track_caller]pubfnouter"), "{out}");
        assert!(out.contains("(move||->Result<Tensor>{self.inner()?})()"), "{out}");
        assert!(out.contains("called_from(caller,::core::file!(),::core::option::Option::Some(\"outer\"))"), "{out}");
    }

    /// The types in bounds are taken neither for parameters nor for the function's result.
    #[test]
    fn bounds_are_not_taken_for_the_signature() {
        let out = run(
            "site",
            "pub fn map<F: Fn(X) -> Result<B>, G>(f: F, g: G) -> Result<B> where G: Fn(B) -> Result<C>, { f() }",
        );
        assert!(out.contains("->Result<B>whereG:Fn(B)->Result<C>,{letcaller"), "{out}");
        assert!(out.contains("(move||->Result<B>{f()})()"), "{out}");
        for plain in [
            "pub fn collate<F>(self, f: F) -> Builder<F> where F: Fn(X) -> Result<B>, { f() }",
            "pub fn pin(self) -> Builder<fn(X) -> Result<B>> { f() }",
            "pub fn fill(self, f: impl Fn() -> Result<B>) { f() }",
        ] {
            assert!(!run("site", plain).contains("track_caller"), "{plain}");
        }
    }

    #[test]
    fn arguments_of_any_type_are_converted_before() {
        let out = run(
            "",
            "impl Tensor {
                /// Doc.
                #[cfg(x)]
                pub fn sum(&self, dims: impl Dims, keep: bool) -> Result<Tensor> { self.go(dims) }
                pub fn full(shape: impl Extents, mut value: impl Into<Scalar>) -> Result<Tensor> { go(shape, value) }
                pub fn item<T: Element>(&self, dim: impl Dim) -> Result<T> { go() }
            }",
        );
        assert!(out.contains("#[track_caller]pubfnsum(&self,dims:implDims,keep:bool)->Result<Tensor>{"), "{out}");
        assert!(out.contains("self.__sum(Dims::list(&dims),keep,::core::panic::Location::caller())"), "{out}");
        assert!(out.contains("#[cfg(x)]#[allow("), "{out}");
        assert!(out.contains("fn__sum(&self,dims:::kiln_backend::DimList,keep:bool,caller:"), "{out}");
        assert!(out.contains("pubfnfull(shape:implExtents,value:implInto<Scalar>)"), "{out}");
        assert!(out.contains("Self::__full(Extents::list(&shape),::core::convert::Into::into(value),"), "{out}");
        assert!(out.contains("fn__full(shape:crate::ExtentList,mutvalue:Scalar,caller:"), "{out}");
        assert!(!out.contains("__item"), "{out}");
    }

    #[test]
    fn functions_of_traits_are_public() {
        let out =
            run("module", "impl Module for Linear { fn forward(&self, x: &Tensor) -> Result<Tensor> { x.go() } }");
        assert!(out.contains("failed_in(self,error)") && out.contains("Option::None"), "{out}");
        assert!(out.contains("hooked(self,x,|x:&::kiln_tensor::Tensor|->Result<Tensor>{x.go()})"), "{out}");
        let out =
            run("module", "impl Module for L { fn forward_relu(&self, y: &Tensor) -> Result<Tensor> { y.go() } }");
        assert!(out.contains("{ifcrate::module::is_hooked(self){returnself.forward(y)?.relu();}y.go()}"), "{out}");
        let out = run("site", "#[inline] pub fn load(path: &Path) -> Result<()> { go() }");
        assert!(out.starts_with("#[inline]#[track_caller]pubfnload") && out.contains("Option::None"), "{out}");
    }

    #[test]
    fn other_arguments_and_items_are_named() {
        assert!(expand(&"where".parse().unwrap(), "fn f() {}".parse().unwrap()).is_err());
        assert!(expand(&TokenStream::new(), "impl T".parse().unwrap()).is_err());
    }
}
