//! Parses the `#[module(…)]` attributes.

use syn::{Attribute, Error, Ident, LitStr, Path, Result};

/// Attributes of the struct.
#[derive(Default)]
pub(crate) struct OfStruct {
    /// The name that the module prints with.
    pub name: Option<LitStr>,
    /// A method `(&self) -> String` that returns the text between the parentheses.
    pub extra_repr: Option<Ident>,
    /// `Some` if the type can be saved in model files: its name there, by default the name of the struct.
    pub save: Option<Option<LitStr>>,
    /// Leaves `Display` to the user.
    pub no_display: bool,
    /// The path of `kiln_nn`.
    pub krate: Option<Path>,
}

/// Attributes of a field.
#[derive(Default)]
pub(crate) struct OfField {
    /// Whether it is not a part of the module.
    pub skip: bool,
    /// Whether a skipped field is saved all the same.
    pub save: bool,
    /// The name in the state dict.
    pub name: Option<LitStr>,
}

impl OfStruct {
    pub fn parse(attributes: &[Attribute]) -> Result<OfStruct> {
        let mut out = OfStruct::default();
        for attribute in ours(attributes) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("name") {
                    out.name = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("extra_repr") {
                    out.extra_repr = Some(meta.value()?.parse::<LitStr>()?.parse()?);
                } else if meta.path.is_ident("save") {
                    out.save = Some(if meta.input.peek(syn::Token![=]) { Some(meta.value()?.parse()?) } else { None });
                } else if meta.path.is_ident("no_display") {
                    out.no_display = true;
                } else if meta.path.is_ident("crate") {
                    out.krate = Some(meta.value()?.parse::<LitStr>()?.parse()?);
                } else {
                    return Err(meta.error(
                        "unknown attribute of a module; there are `name = \"…\"`, `extra_repr = \"method\"`, \
                         `save`, `no_display` and `crate = \"path::to::kiln_nn\"`",
                    ));
                }
                Ok(())
            })?;
        }
        Ok(out)
    }
}

impl OfField {
    pub fn parse(attributes: &[Attribute]) -> Result<OfField> {
        let mut out = OfField::default();
        for attribute in ours(attributes) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("skip") {
                    out.skip = true;
                } else if meta.path.is_ident("save") {
                    out.save = true;
                } else if meta.path.is_ident("name") {
                    let name: LitStr = meta.value()?.parse()?;
                    if name.value().is_empty() || name.value().contains('.') {
                        return Err(Error::new(
                            name.span(),
                            "a name in the state dict must not be empty or contain a dot",
                        ));
                    }
                    out.name = Some(name);
                } else {
                    return Err(meta.error("unknown attribute of a field; there are `skip`, `save` and `name = \"…\"`"));
                }
                Ok(())
            })?;
        }
        Ok(out)
    }
}

fn ours(attributes: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    attributes.iter().filter(|a| a.path().is_ident("module"))
}
