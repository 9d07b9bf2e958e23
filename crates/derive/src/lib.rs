//! Procedural macros: `#[derive(Module)]` of `kiln-nn`, documented there; `#[located]`, with which errors of Kiln's own
//! crates carry the line of the user's program that they come from; `tensor_formula!`, with which the formulas of the
//! tables of element-wise operations become operations on tensors; and the inner part of `calc!` of `kiln-tensor`.

#![forbid(unsafe_code)]

mod attributes;
mod calc;
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

/// For Kiln's own crates: makes errors that leave public functions carry the line of the first caller outside Kiln
/// (`Error::location`). Applies to an impl block, a trait or a single public function.
///
/// - `#[located]` is for operations. If an operation fails because another public operation inside it failed, the error
///   names the outer one, which the user called.
/// - `#[located(site)]` does not change the name of the operation.
/// - `#[located(module)]` goes before `impl Module for …`, and adds the layer that failed (`Error::layer`), and runs the layer's
///   forward hooks.
///
/// Functions whose result borrows from their arguments, or is an `impl Trait`, are left unchanged.
#[proc_macro_attribute]
pub fn located(arguments: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    located::expand(&arguments.into(), item.into())
        .unwrap_or_else(|message| quote::quote!(::core::compile_error!(#message);))
        .into()
}

/// For `kiln-tensor`: expands a formula from the tables of element-wise operations to calls of functions on tensors that
/// are in scope (`mul`, `select`, `exp`, …), each of which may fail.
#[proc_macro]
pub fn tensor_formula(formula: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let formula = syn::parse_macro_input!(formula as syn::Expr);
    formula::expand(&formula).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// The inner part of `kiln_tensor::calc!`, documented there: its argument after the path of `kiln-tensor` in brackets.
#[proc_macro]
pub fn calc_in(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(input as calc::Input);
    calc::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
