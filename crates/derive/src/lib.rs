//! The derive macro behind `#[derive(Module)]` of `kiln-nn`, where it is documented.

#![forbid(unsafe_code)]

mod attributes;
mod expand;

/// Implements `ModuleTree`, `Field` and `Display` for a struct of layers; see `kiln_nn::Module`.
#[proc_macro_derive(Module, attributes(module))]
pub fn module(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    expand::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
