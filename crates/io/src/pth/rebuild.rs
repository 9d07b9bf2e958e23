//! The functions with which PyTorch's pickles construct tensors and parameters from storages.

use std::sync::Arc;

use kiln_pickle::Value;

use super::{
    classes::{self, TorchType},
    value::{Place, PthTensor},
};

/// Whether a function constructs a tensor. An unknown one is a problem of its tensor only.
pub(super) fn is_rebuilt((module, name): (&str, &str)) -> bool {
    matches!(module, "torch._utils" | "torch._tensor") && name.starts_with("_rebuild")
}

/// The tensor that a function would construct; else what is wrong with it, to follow its name in a message.
pub(super) fn rebuilt(function: (&str, &str), arguments: &[Value<'_>], depth: usize) -> Result<PthTensor, String> {
    if depth > 8 {
        return Err("contains itself".into());
    }
    match (function.1, arguments) {
        ("_rebuild_tensor" | "_rebuild_tensor_v2", [storage, offset, dims, strides, rest @ ..]) => {
            let requires_grad = rest.first().copied().and_then(Value::bool).unwrap_or(false);
            tensor(*storage, [*offset, *dims, *strides], None, requires_grad)
        }
        ("_rebuild_tensor_v3", [storage, offset, dims, strides, requires_grad, _, dtype, ..]) => {
            let kind = dtype.global().and_then(classes::of_dtype).ok_or("has no dtype")?;
            tensor(*storage, [*offset, *dims, *strides], Some(kind), requires_grad.bool().unwrap_or(false))
        }
        ("_rebuild_parameter" | "_rebuild_parameter_with_state", [data, requires_grad, ..]) => {
            let (inner, arguments) = data.call().ok_or("is a parameter of something other than a tensor")?;
            let tensor = rebuilt(inner, &arguments, depth + 1)?;
            Ok(PthTensor { requires_grad: requires_grad.bool().unwrap_or(true), ..tensor })
        }
        ("_rebuild_from_type_v2", [function, _, arguments, ..]) => {
            let function = function.global().ok_or("is not made by a function")?;
            let arguments: Vec<Value> = arguments.items().ok_or("is made without arguments")?.collect();
            rebuilt(function, &arguments, depth + 1)
        }
        _ => Err(format!("is made by {}.{}, in a way that Kiln does not know", function.0, function.1)),
    }
}

/// A tensor of `[offset, dims, strides]` in a storage; `kind` is its dtype where the storage is untyped.
fn tensor(
    storage: Value<'_>,
    [offset, dims, strides]: [Value<'_>; 3],
    kind: Option<&'static TorchType>,
    requires_grad: bool,
) -> Result<PthTensor, String> {
    const BAD: &str = "has an invalid storage, offset, size or stride";
    // A shape with too many dimensions is refused when it is loaded; one with more than 64 is refused here.
    let sizes = |value: Value<'_>| -> Option<Vec<usize>> {
        value.items().filter(|items| items.len() <= 64)?.map(Value::size).collect()
    };
    // ("storage", class, key, location, elements), and in the older format (view's key, offset, elements) or None.
    let id: Vec<Value> = storage.persistent().and_then(Value::items).ok_or(BAD)?.take(6).collect();
    let [tag, class, key, _, _, rest @ ..] = &id[..] else { return Err(BAD.into()) };
    if tag.text().is_none_or(|tag| tag != "storage") {
        return Err(BAD.into());
    }
    let view = match rest.first().filter(|view| !view.is_none()) {
        None => 0,
        Some(view) => view.items().and_then(|mut parts| parts.nth(1)).and_then(Value::size).ok_or(BAD)?,
    };
    let kind = kind.or_else(|| class.global().and_then(classes::of_storage)).ok_or(BAD)?;
    let (dims, strides) = sizes(dims).zip(sizes(strides)).ok_or(BAD)?;
    if dims.len() != strides.len() {
        return Err(BAD.into());
    }
    let offset = offset.size().and_then(|offset| offset.checked_add(view)).ok_or(BAD)?;
    let storage = key.text().filter(|key| key.len() <= 256).ok_or(BAD)?.into_owned();
    Ok(PthTensor { place: Arc::new(Place { kind, storage, offset, dims, strides }), requires_grad })
}
