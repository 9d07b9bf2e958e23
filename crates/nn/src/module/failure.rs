//! Which layer an error comes from.

use kiln_tensor::{Error, FailedLayer};

use super::{ModuleTree, Part};

/// The error, on its way out of a layer's `forward`.
pub(crate) fn failed_in<M: ModuleTree + ?Sized>(layer: &M, error: Error) -> Error {
    error.in_layer(|| {
        let path = path_of(layer);
        FailedLayer { is_whole_path: path.is_some(), path: path.unwrap_or_default(), description: description(layer) }
    })
}

/// The error, on its way out of a container whose layer `child` failed.
pub(crate) fn failed_in_container<C: ModuleTree, M: ModuleTree + ?Sized>(
    container: &C,
    name: &str,
    child: &M,
    error: Error,
) -> Error {
    failed_in(child, error).in_container(name, path_of(container).as_deref())
}

/// The path in the model, of modules with a training switch, which notes it.
fn path_of<M: ModuleTree + ?Sized>(module: &M) -> Option<String> {
    let mut path = None;
    module.visit(&mut |_, part| {
        if let Part::Training(training) = part {
            path = training.module_path();
        }
    });
    path
}

/// The first line of what it prints as.
fn description<M: ModuleTree + ?Sized>(module: &M) -> String {
    let text = module.repr();
    match text.split_once('\n') {
        Some(_) => module.type_name().to_owned(),
        None => text,
    }
}
