//! Expands `#[derive(Module)]`: from a struct to its implementations.

use std::collections::HashSet;

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{
    Data, DeriveInput, Error, Index, LitStr, Member, Path, Result, Type, WhereClause, ext::IdentExt, spanned::Spanned,
};

use crate::{
    attributes::{OfField, OfStruct},
    externs,
};

/// A field that may hold a part of the module.
struct Part<'a> {
    member: Member,
    name: String,
    ty: &'a Type,
}

/// A field that is not a part of the module.
struct Skipped<'a> {
    member: Member,
    name: String,
    ty: &'a Type,
    /// Whether it is saved in files.
    saved: bool,
}

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new(
            input.ident.span(),
            "`#[derive(Module)]` is for structs; for a choice between layers use a field of `Box<dyn Module>`",
        ));
    };
    let attributes = OfStruct::parse(&input.attrs)?;
    let krate = match attributes.krate {
        Some(path) => path,
        None => find_crate()?,
    };

    let (mut parts, mut skipped, mut hooks) = (Vec::new(), Vec::new(), None);
    for (i, field) in data.fields.iter().enumerate() {
        let of_field = OfField::parse(&field.attrs)?;
        let (member, own_name) = match &field.ident {
            Some(ident) => (Member::Named(ident.clone()), ident.unraw().to_string()),
            None => (Member::Unnamed(Index::from(i)), i.to_string()),
        };
        if of_field.skip {
            if let Some(name) = of_field.name {
                return Err(Error::new(name.span(), "a skipped field has no name in the state dict"));
            }
            skipped.push(Skipped { member, name: own_name, ty: &field.ty, saved: of_field.save });
            continue;
        }
        if is_named(&field.ty, "Hooks") {
            hooks = Some(quote!(&self.#member));
            skipped.push(Skipped { member, name: own_name, ty: &field.ty, saved: false });
            continue;
        }
        // The layers of `kiln-nn` run the hooks beside their training mode (`#[located(module)]`).
        if is_inside_nn() && is_named(&field.ty, "Training") {
            hooks = Some(quote!(self.#member.hooks()));
        }
        let name = of_field.name.map_or(own_name, |n| n.value());
        if parts.iter().any(|p: &Part| p.name == name) {
            return Err(Error::new(field.span(), format!("two fields have the name `{name}` in the state dict")));
        }
        parts.push(Part { member, name, ty: &field.ty });
    }

    let ident = &input.ident;
    let type_name = attributes.name.map_or_else(|| ident.unraw().to_string(), |n| n.value());
    let where_clause = where_clause(input, &krate, &parts, &skipped);
    let (impl_generics, type_generics, _) = input.generics.split_for_impl();
    let visits = |method: Ident, borrow: TokenStream| -> Vec<TokenStream> {
        let visit = |part: &Part| {
            let Part { member, name, ty } = part;
            // With the span of the field's type, so that the compiler underlines a type that cannot be a field.
            quote_spanned!(ty.span()=> #krate::Field::#method(#borrow self.#member, #name, each);)
        };
        parts.iter().map(visit).collect()
    };
    let (visit, visit_mut) =
        (visits(format_ident!("visit_field"), quote!(&)), visits(format_ident!("visit_field_mut"), quote!(&mut)));
    let extra_repr = attributes.extra_repr.map(|method| {
        quote! {
            fn extra_repr(&self) -> ::std::string::String {
                self.#method()
            }
        }
    });
    let hooks = hooks.map(|hooks| {
        quote! {
            fn hooks(&self) -> ::std::option::Option<&#krate::Hooks> {
                ::std::option::Option::Some(#hooks)
            }
        }
    });
    // A type with parameters may borrow, which `Any` cannot.
    let as_any = input.generics.params.is_empty().then(|| {
        quote! {
            fn as_any(&self) -> ::std::option::Option<&dyn ::std::any::Any> {
                ::std::option::Option::Some(self)
            }
        }
    });
    let saved = attributes.save.map(|name| saved(input, &krate, &parts, &skipped, name, where_clause.clone()));
    let architecture = saved.is_some().then(|| {
        quote! {
            fn architecture(
                &self,
                at: &mut #krate::saved::Describing,
            ) -> ::std::result::Result<#krate::saved::Value, #krate::saved::Error> {
                #krate::saved::Saved::save(self, at)
            }
        }
    });
    let display = (!attributes.no_display).then(|| {
        quote! {
            #[automatically_derived]
            impl #impl_generics ::std::fmt::Display for #ident #type_generics #where_clause {
                fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                    f.write_str(&#krate::ModuleTree::repr(self))
                }
            }
        }
    });
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #krate::ModuleTree for #ident #type_generics #where_clause {
            fn type_name(&self) -> &str {
                #type_name
            }

            #[allow(unused_variables)]
            fn visit<'part>(&'part self, each: &mut dyn FnMut(&str, #krate::Part<'part>)) {
                #(#visit)*
            }

            #[allow(unused_variables)]
            fn visit_mut<'part>(&'part mut self, each: &mut dyn FnMut(&str, #krate::PartMut<'part>)) {
                #(#visit_mut)*
            }

            #extra_repr

            #hooks

            #as_any

            #architecture
        }

        #[automatically_derived]
        impl #impl_generics #krate::Field for #ident #type_generics #where_clause {
            const KIND: #krate::FieldKind = #krate::FieldKind::Module;

            fn visit_field<'part>(&'part self, name: &str, each: &mut dyn FnMut(&str, #krate::Part<'part>)) {
                each(name, #krate::Part::Module(self));
            }

            fn visit_field_mut<'part>(&'part mut self, name: &str, each: &mut dyn FnMut(&str, #krate::PartMut<'part>)) {
                each(name, #krate::PartMut::Module(self));
            }
        }

        #display

        #saved
    })
}

/// Code that saves the struct in a model file, and restores it.
fn saved(
    input: &DeriveInput,
    krate: &Path,
    parts: &[Part],
    skipped: &[Skipped],
    name: Option<LitStr>,
    mut where_clause: Option<WhereClause>,
) -> TokenStream {
    let ident = &input.ident;
    let name = name.map_or_else(|| ident.unraw().to_string(), |name| name.value());
    let (impl_generics, type_generics, _) = input.generics.split_for_impl();
    let parameters: HashSet<String> = input.generics.type_params().map(|p| p.ident.to_string()).collect();
    // By the fields' own names: skipped fields have none in the state dict.
    let kept = skipped.iter().filter(|s| s.saved).map(|s| (&s.member, &s.name, s.ty));
    let fields: Vec<_> = parts.iter().map(|p| (&p.member, &p.name, p.ty)).chain(kept).collect();
    for (_, _, ty) in fields.iter().filter(|(_, _, ty)| mentions(ty, &parameters)) {
        let predicates = &mut where_clause.get_or_insert_with(|| syn::parse_quote!(where)).predicates;
        predicates.push(syn::parse_quote!(#ty: #krate::saved::Saved));
    }
    let save = fields.iter().map(|(member, name, ty)| {
        // With the span of the field's type, so that the compiler underlines a type that cannot be saved.
        quote_spanned! {ty.span()=>
            let value = at.inside(#name, |at| #krate::saved::Saved::save(&self.#member, at))?;
            fields.insert(::std::string::String::from(#name), value);
        }
    });
    let take = fields.iter().map(|(member, name, ty)| quote_spanned!(ty.span()=> #member: fields.take(#name, at)?,));
    let blank = skipped
        .iter()
        .filter(|s| !s.saved)
        .map(|Skipped { member, ty, .. }| quote_spanned!(ty.span()=> #member: ::std::default::Default::default(),));
    quote! {
        #[automatically_derived]
        impl #impl_generics #krate::saved::Saved for #ident #type_generics #where_clause {
            fn save(
                &self,
                at: &mut #krate::saved::Describing,
            ) -> ::std::result::Result<#krate::saved::Value, #krate::saved::Error> {
                #[allow(unused_mut)]
                let mut fields = #krate::saved::Map::new();
                #(#save)*
                ::std::result::Result::Ok(at.module(#name, fields))
            }

            fn restore(
                value: &#krate::saved::Value,
                at: &mut #krate::saved::Restoring<'_>,
            ) -> ::std::result::Result<Self, #krate::saved::Error> {
                #[allow(unused_mut)]
                let mut fields = at.module(#name, value)?;
                let out = #ident { #(#take)* #(#blank)* };
                fields.finish(at)?;
                ::std::result::Result::Ok(out)
            }
        }

        #[automatically_derived]
        impl #impl_generics #krate::saved::SavedName for #ident #type_generics #where_clause {
            const TYPE: &'static str = #name;
        }
    }
}

/// The struct's own bounds, and bounds for the fields whose types depend on type parameters.
fn where_clause(input: &DeriveInput, krate: &Path, parts: &[Part], skipped: &[Skipped]) -> Option<WhereClause> {
    let parameters: HashSet<String> = input.generics.type_params().map(|p| p.ident.to_string()).collect();
    let mut clause = input.generics.where_clause.clone();
    if parameters.is_empty() {
        return clause;
    }
    let predicates = &mut clause.get_or_insert_with(|| syn::parse_quote!(where)).predicates;
    for ty in parts.iter().map(|p| p.ty).filter(|ty| mentions(ty, &parameters)) {
        predicates.push(syn::parse_quote!(#ty: #krate::Field));
    }
    for ty in skipped.iter().map(|s| s.ty).filter(|ty| mentions(ty, &parameters)) {
        predicates.push(syn::parse_quote!(#ty: ::std::marker::Send + ::std::marker::Sync));
    }
    clause
}

fn mentions(ty: &Type, parameters: &HashSet<String>) -> bool {
    fn any(tokens: TokenStream, parameters: &HashSet<String>) -> bool {
        tokens.into_iter().any(|token| match token {
            TokenTree::Ident(ident) => parameters.contains(&ident.to_string()),
            TokenTree::Group(group) => any(group.stream(), parameters),
            _ => false,
        })
    }
    any(ty.to_token_stream(), parameters)
}

/// Whether the last part of the type's path is this name, without generic arguments.
fn is_named(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == name && last.arguments.is_empty()))
}

/// Whether the struct is one of `kiln-nn` itself.
fn is_inside_nn() -> bool {
    std::env::var("CARGO_CRATE_NAME").is_ok_and(|name| name == "kiln_nn")
}

/// `kiln_nn` as the caller's crate reaches it: directly, or as `nn` of the facade.
fn find_crate() -> Result<Path> {
    let renamed = |name: String| Ident::new(&name, Span::call_site());
    // The library has an `extern crate self`; its own tests and examples have it as a dependency.
    if is_inside_nn() {
        return Ok(syn::parse_quote!(::kiln_nn));
    }
    if let Some(name) = externs::name_of("kiln_nn").map(renamed) {
        return Ok(syn::parse_quote!(::#name));
    }
    if let Some(name) = externs::name_of("kiln").map(renamed) {
        return Ok(syn::parse_quote!(::#name::nn));
    }
    if !externs::is_known() {
        // An editor expands macros to show types and completions; most programs depend on the facade.
        return Ok(syn::parse_quote!(::kiln::nn));
    }
    Err(Error::new(
        Span::call_site(),
        "neither `kiln` nor `kiln-nn` is among this crate's dependencies; if it is re-exported, say where: \
         `#[module(crate = \"path::to::kiln_nn\")]`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generated code without spaces, or the error message.
    fn run(source: &str) -> std::result::Result<String, String> {
        let input: DeriveInput = syn::parse_str(source).unwrap();
        expand(&input).map(|t| t.to_string().replace(' ', "")).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_not_a_struct_or_not_an_attribute_is_named() {
        for (source, want) in [
            ("#[module(crate = \"k\")] enum E { A }", "is for structs"),
            ("#[module(crate = \"k\", nmae = \"x\")] struct S;", "unknown attribute of a module"),
            ("#[module(crate = \"k\")] struct S { #[module(skp)] a: A }", "unknown attribute of a field"),
            ("#[module(crate = \"k\")] struct S { #[module(name = \"a.b\")] a: A }", "contain a dot"),
            ("#[module(crate = \"k\")] struct S { #[module(name = \"b\")] a: A, b: B }", "two fields"),
            ("#[module(crate = \"k\")] struct S { #[module(skip, name = \"b\")] a: A }", "skipped"),
        ] {
            let error = run(source).expect_err(source);
            assert!(error.contains(want), "{source}: {error}");
        }
    }

    #[test]
    fn only_types_that_depend_on_parameters_are_bounded() {
        let code = run("#[module(crate = \"k\")] struct S<'a, M: Clone, T> where T: Copy { a: Vec<M>, b: Linear, \
                        c: &'a str, #[module(skip)] d: PhantomData<T> }")
        .unwrap();
        assert!(code.contains("impl<'a,M:Clone,T>k::ModuleTreeforS<'a,M,T>whereT:Copy,Vec<M>:k::Field,"), "{code}");
        assert!(code.contains("PhantomData<T>:::std::marker::Send+::std::marker::Sync"), "{code}");
        assert!(!code.contains("Linear:k::Field") && !code.contains("self.d"), "{code}");
    }

    #[test]
    fn a_field_of_hooks_is_no_part_and_is_not_saved() {
        let code = run("#[module(crate = \"k\", save)] struct S { a: A, hooks: k::Hooks }").unwrap();
        assert!(
            code.contains("fnhooks(&self)->::std::option::Option<&k::Hooks>{::std::option::Option::Some(&self.hooks)}")
        );
        assert!(!code.contains("\"hooks\"") && code.contains("hooks:::std::default::Default::default()"), "{code}");
        assert!(code.contains("fnas_any"));
        let code =
            run("#[module(crate = \"k\")] struct S<'a> { a: &'a str, #[module(skip)] b: Hooks, t: Training }").unwrap();
        assert!(!code.contains("fnhooks") && !code.contains("fnas_any"), "{code}");
    }

    #[test]
    fn names_are_the_fields_unless_given() {
        let code =
            run("#[module(crate = \"k\", name = \"Net\")] struct S { r#type: A, #[module(name = \"fc\")] b: B }")
                .unwrap();
        assert!(code.contains("self.r#type,\"type\"") && code.contains("self.b,\"fc\"") && code.contains("\"Net\""));
        let code = run("#[module(crate = \"k\")] struct S(A, B);").unwrap();
        assert!(code.contains("self.1,\"1\""), "{code}");
    }
}
