//! `calc!`: rewrites an expression of tensors and numbers so that its operators pass errors on.
//!
//! Every operator becomes a call of its trait, `::core::ops::Add::add(left, right)`, on operands that
//! `kiln_tensor::calc` wraps; Rust's own operators cannot be implemented for a `Result` and a number, or two of them.
//! The tokens of a call are where its operator is, so `#[track_caller]` gives the operator's line and column; that of
//! `left + right` would be the first line of `left`.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{
    BinOp, Error, Expr, Result, UnOp, bracketed,
    parse::{Parse, ParseStream},
    spanned::Spanned,
};

/// `[path of kiln-tensor] expression`
pub(crate) struct Input {
    library: TokenStream,
    expr: Expr,
}

impl Parse for Input {
    fn parse(input: ParseStream<'_>) -> Result<Input> {
        let library;
        bracketed!(library in input);
        Ok(Input { library: library.parse()?, expr: input.parse()? })
    }
}

pub(crate) fn expand(input: &Input) -> Result<TokenStream> {
    let (library, value) = (&input.library, term(&input.expr)?);
    Ok(quote!({
        use #library::calc as __kiln_calc;
        // The program has imported a trait of an operator.
        #[allow(unused_qualifications)]
        let value = __kiln_calc::tensor(#value);
        value
    }))
}

/// A part of the expression, as something that has the operators: a number or a `Term`.
fn term(expr: &Expr) -> Result<TokenStream> {
    Ok(match expr {
        Expr::Group(group) => term(&group.expr)?,
        Expr::Paren(paren) => term(&paren.expr)?,
        // As they are, so that their types are inferred as anywhere else.
        Expr::Lit(_) => quote!(#expr),
        Expr::Unary(unary) => match unary.op {
            UnOp::Neg(_) if matches!(*unary.expr, Expr::Lit(_)) => quote!(#expr),
            UnOp::Neg(op) => call(&["core", "ops", "Neg", "neg"], op.span(), &[&unary.expr])?,
            UnOp::Not(op) => call(&["core", "ops", "Not", "not"], op.span(), &[&unary.expr])?,
            _ => quote!(__kiln_calc::Operand::term(&#expr)),
        },
        Expr::Binary(binary) => {
            let Some(function) = function_of(&binary.op) else { return Err(refused(&binary.op)) };
            call(&function, binary.op.span(), &[&binary.left, &binary.right])?
        }
        // Places are borrowed: a tensor can be used again.
        Expr::Path(_) | Expr::Field(_) | Expr::Index(_) => quote!(__kiln_calc::Operand::term(&#expr)),
        _ => {
            let mut value = expr.clone();
            calculate_receiver(&mut value)?;
            quote!(__kiln_calc::Operand::term(#value))
        }
    })
}

/// The method of an operator: of a trait of `core::ops`, or of `Compare`, since Rust's comparisons return `bool`.
fn function_of(op: &BinOp) -> Option<[&'static str; 4]> {
    let std = |name, method| Some(["core", "ops", name, method]);
    let compare = |method| Some(["", "__kiln_calc", "Compare", method]);
    match op {
        BinOp::Add(_) => std("Add", "add"),
        BinOp::Sub(_) => std("Sub", "sub"),
        BinOp::Mul(_) => std("Mul", "mul"),
        BinOp::Div(_) => std("Div", "div"),
        BinOp::Rem(_) => std("Rem", "rem"),
        BinOp::BitAnd(_) => std("BitAnd", "bitand"),
        BinOp::BitOr(_) => std("BitOr", "bitor"),
        BinOp::BitXor(_) => std("BitXor", "bitxor"),
        BinOp::Shl(_) => std("Shl", "shl"),
        BinOp::Shr(_) => std("Shr", "shr"),
        BinOp::Eq(_) => compare("eq"),
        BinOp::Ne(_) => compare("ne"),
        BinOp::Lt(_) => compare("lt"),
        BinOp::Le(_) => compare("le"),
        BinOp::Gt(_) => compare("gt"),
        BinOp::Ge(_) => compare("ge"),
        _ => None,
    }
}

fn refused(op: &BinOp) -> Error {
    let message = match op {
        BinOp::And(_) | BinOp::Or(_) => "truth values of tensors are combined by `&` and `|`",
        _ => "`calc!` computes a value; tensors are changed in place by methods such as `add_`",
    };
    Error::new(op.span(), message)
}

/// A call whose tokens are where the operator is.
fn call(function: &[&str; 4], at: Span, operands: &[&Expr]) -> Result<TokenStream> {
    let operands = operands.iter().map(|operand| term(operand)).collect::<Result<Vec<_>>>()?;
    let mut arguments = Group::new(Delimiter::Parenthesis, quote!(#(#operands),*));
    arguments.set_span(at);
    let name = |part: &&str| Ident::new(part, at);
    let names: Vec<Ident> = function.iter().filter(|part| !part.is_empty()).map(name).collect();
    let global = (function[0] == "core").then(|| quote_spanned!(at=> ::));
    let path = quote_spanned!(at=> #global #(#names)::*);
    Ok(quote!(#path #arguments))
}

/// In a chain such as `(a - b)?.square()?`, replaces the operators in the parentheses that it begins with.
fn calculate_receiver(expr: &mut Expr) -> Result<()> {
    match expr {
        Expr::MethodCall(call) => calculate_receiver(&mut call.receiver),
        Expr::Try(attempt) => calculate_receiver(&mut attempt.expr),
        Expr::Field(field) => calculate_receiver(&mut field.base),
        Expr::Index(index) => calculate_receiver(&mut index.expr),
        Expr::Paren(paren) if matches!(*paren.expr, Expr::Binary(_) | Expr::Unary(_) | Expr::Paren(_)) => {
            let value = term(&paren.expr)?;
            *expr = Expr::Verbatim(quote!(__kiln_calc::Finish::finish(#value)));
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(source: &str) -> String {
        let input = syn::parse_str(&format!("[kiln] {source}")).unwrap();
        let out = expand(&input).unwrap().to_string().replace(' ', "").replace("__kiln_calc::", "");
        let start = out.find("tensor(").unwrap() + "tensor(".len();
        out[start..out.len() - ");value}".len()].replace("::core::ops::", "").replace("Operand::", "")
    }

    #[test]
    fn operators_become_calls_in_their_order() {
        assert_eq!(run("a * b + 2.0 * c"), "Add::add(Mul::mul(term(&a),term(&b)),Mul::mul(2.0,term(&c)))");
        assert_eq!(run("a - b - c"), "Sub::sub(Sub::sub(term(&a),term(&b)),term(&c))");
        assert_eq!(run("d / (e + 1)"), "Div::div(term(&d),Add::add(term(&e),1))");
        assert_eq!(run("-(a % -2.0)"), "Neg::neg(Rem::rem(term(&a),-2.0))");
        assert_eq!(run("!m & (x > 0.0)"), "BitAnd::bitand(Not::not(term(&m)),Compare::gt(term(&x),0.0))");
        assert_eq!(run("a + n as f64"), "Add::add(term(&a),term(nasf64))");
    }

    #[test]
    fn places_are_borrowed_and_values_are_not() {
        assert_eq!(run("self.w * x[0]"), "Mul::mul(term(&self.w),term(&x[0]))");
        assert_eq!(run("*a + &b"), "Add::add(term(&*a),term(&b))");
        assert_eq!(run("f(a)? * a.sum(1 + 2)"), "Mul::mul(term(f(a)?),term(a.sum(1+2)))");
        assert_eq!(run("a"), "term(&a)");
    }

    #[test]
    fn the_receiver_of_methods_is_calculated() {
        assert_eq!(
            run("(a - b)?.square()? / 2"),
            "Div::div(term(Finish::finish(Sub::sub(term(&a),term(&b)))?.square()?),2)"
        );
        assert_eq!(run("(a).square()?"), "term((a).square()?)");
    }

    #[test]
    fn what_has_no_value_is_refused_where_it_stands() {
        for (source, reason) in [("a && b", "`&` and `|`"), ("a += b", "add_")] {
            let input = syn::parse_str(&format!("[kiln] {source}")).unwrap();
            assert!(expand(&input).unwrap_err().to_string().contains(reason), "{source}");
        }
        assert!(syn::parse_str::<Input>("[kiln]").is_err());
    }
}
