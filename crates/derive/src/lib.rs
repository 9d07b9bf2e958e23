//! Procedural macros: `#[derive(Module)]` of `kiln-nn`, where it is documented; `#[located]`, by which Kiln's own crates say
//! where in the user's program an error came from; and `tensor_formula!`, by which the formulas of the tables of element-wise
//! operations become operations on tensors.

#![forbid(unsafe_code)]

mod attributes;
mod erased;
mod expand;
mod externs;
mod formula;
mod located;
mod tokens;

/// Implements `ModuleTree`, `Field` and `Display` for a struct of layers; see `kiln_nn::Module`.
#[proc_macro_derive(Module, attributes(module))]
pub fn module(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    expand::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// For Kiln's own crates: errors that leave the public functions of an impl block or a trait, or a public function, carry the line
/// of the first caller outside Kiln (`Error::location`).
///
/// - `#[located]` is for operations. If a function fails because another public operation that it is made of failed, the
///   error names the outer one, which the user called.
/// - `#[located(site)]` leaves the name of the operation alone.
/// - `#[located(module)]` goes before `impl Module for …`, and adds the layer that failed (`Error::layer`).
///
/// Functions whose result borrows from their arguments, or is an `impl Trait`, are left as they are.
#[proc_macro_attribute]
pub fn located(arguments: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    located::expand(&arguments.into(), item.into())
        .unwrap_or_else(|message| quote::quote!(::core::compile_error!(#message);))
        .into()
}

/// For `kiln-tensor`: a formula of the tables of element-wise operations, as calls of functions on tensors that are in scope
/// (`mul`, `select`, `exp`, …), each of which may fail.
#[proc_macro]
pub fn tensor_formula(formula: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let formula = syn::parse_macro_input!(formula as syn::Expr);
    formula::expand(&formula).unwrap_or_else(syn::Error::into_compile_error).into()
}
