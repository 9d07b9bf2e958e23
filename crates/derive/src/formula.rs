//! `tensor_formula!`: turns the formulas of the tables of element-wise operations into operations on tensors.
//!
//! A formula is an expression of numbers, such as `g * select(s <= R(0.0), R(0.0), exp(s))`. Rust's comparison
//! operators cannot return tensors, so the expression is rewritten: every operator becomes a call, `mul(&g,
//! &select(…)?)?`.
//!
//! In `select(c, a, b)`, `a` is computed from operands that are replaced by harmless numbers where `c` is false, and `b`
//! from operands that are replaced where it is true. Otherwise the zero gradient of an element that is not selected could be
//! multiplied by an infinite slope, which gives NaN.

use std::collections::BTreeSet;

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::{BinOp, Expr, UnOp};

/// The function that replaces an operator.
fn function_of(op: &BinOp) -> Option<&'static str> {
    Some(match op {
        BinOp::Add(_) => "add",
        BinOp::Sub(_) => "sub",
        BinOp::Mul(_) => "mul",
        BinOp::Div(_) => "div",
        BinOp::Eq(_) => "eq",
        BinOp::Lt(_) => "lt",
        BinOp::Le(_) => "le",
        BinOp::Gt(_) => "gt",
        BinOp::Ge(_) => "ge",
        BinOp::And(_) => "and",
        BinOp::Or(_) => "or",
        _ => return None,
    })
}

/// The variables of a formula: names in lower case.
fn variables(formula: &Expr, found: &mut BTreeSet<Ident>) {
    match formula {
        Expr::Group(group) => variables(&group.expr, found),
        Expr::Paren(paren) => variables(&paren.expr, found),
        Expr::Unary(unary) => variables(&unary.expr, found),
        Expr::Binary(binary) => [&binary.left, &binary.right].iter().for_each(|side| variables(side, found)),
        Expr::Call(call) => call.args.iter().for_each(|argument| variables(argument, found)),
        Expr::Path(name) => {
            let is_variable = |name: &&Ident| name.to_string().starts_with(char::is_lowercase);
            found.extend(name.path.get_ident().filter(is_variable).cloned());
        }
        _ => {}
    }
}

/// A branch of a `select`, computed from operands that `keep` replaces where the branch is not selected.
fn branch(formula: &Expr, keep: &Ident) -> syn::Result<TokenStream> {
    let mut names = BTreeSet::new();
    variables(formula, &mut names);
    let value = expand(formula)?;
    let kept = names.iter().map(|name| quote!(let #name = #keep(&condition, &#name)?;));
    Ok(quote!({ #(#kept)* #value }))
}

pub(crate) fn expand(formula: &Expr) -> syn::Result<TokenStream> {
    let refuse = || syn::Error::new_spanned(formula, "formulas consist of operators, calls, `R(constant)` and names");
    Ok(match formula {
        Expr::Group(group) => expand(&group.expr)?,
        Expr::Paren(paren) => expand(&paren.expr)?,
        Expr::Path(name) => quote!(#name.clone()),
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => {
            let operand = expand(&unary.expr)?;
            quote!(neg(&#operand)?)
        }
        Expr::Binary(binary) => {
            let function = format_ident!("{}", function_of(&binary.op).ok_or_else(refuse)?);
            let (a, b) = (expand(&binary.left)?, expand(&binary.right)?);
            quote!(#function(&#a, &#b)?)
        }
        Expr::Call(call) => {
            let Expr::Path(function) = &*call.func else { return Err(refuse()) };
            if function.path.is_ident("R") {
                let constant = &call.args;
                return Ok(quote!(number(#constant)));
            }
            if let (true, [condition, a, b]) =
                (function.path.is_ident("select"), &call.args.iter().collect::<Vec<_>>()[..])
            {
                let condition = expand(condition)?;
                let (a, b) = (branch(a, &format_ident!("where_true"))?, branch(b, &format_ident!("where_false"))?);
                return Ok(quote!({ let condition = #condition; select(&condition, &#a, &#b)? }));
            }
            let arguments = call.args.iter().map(expand).collect::<syn::Result<Vec<_>>>()?;
            quote!(#function(#(&#arguments),*)?)
        }
        _ => return Err(refuse()),
    })
}
