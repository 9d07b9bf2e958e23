//! `tensor_formula!`: turns the formulas of the tables of element-wise operations into operations on tensors.
//!
//! A formula is an expression of numbers, such as `g * select(s <= R(0.0), R(0.0), exp(s))`. Rust's comparison
//! operators cannot return tensors, so the expression is rewritten: every operator becomes a call, `mul(&g,
//! &select(…)?)?`.

use proc_macro2::TokenStream;
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
            let arguments = call.args.iter().map(expand).collect::<syn::Result<Vec<_>>>()?;
            quote!(#function(#(&#arguments),*)?)
        }
        _ => return Err(refuse()),
    })
}
