//! Adds to an error the layer that it comes from.

use kiln_tensor::{Error, FailedLayer};

use super::tree::{ModuleTree, Part};

/// Called as the error leaves a layer's `forward`.
pub(crate) fn failed_in<M: ModuleTree + ?Sized>(layer: &M, error: Error) -> Error {
    error.in_layer(|| {
        let path = path_of(layer);
        FailedLayer { is_whole_path: path.is_some(), path: path.unwrap_or_default(), description: description(layer) }
    })
}

/// Called as the error leaves a container whose layer `child` failed.
pub(crate) fn failed_in_container<C: ModuleTree, M: ModuleTree + ?Sized>(
    container: &C,
    name: &str,
    child: &M,
    error: Error,
) -> Error {
    failed_in(child, error).in_container(name, path_of(container).as_deref())
}

/// The module's path in the model, if the module has a training switch, which records it.
fn path_of<M: ModuleTree + ?Sized>(module: &M) -> Option<String> {
    let mut path = None;
    module.visit(&mut |_, part| {
        if let Part::Training(training) = part {
            path = training.module_path();
        }
    });
    path
}

/// The first line of its printed form.
fn description<M: ModuleTree + ?Sized>(module: &M) -> String {
    let text = module.repr();
    match text.split_once('\n') {
        Some(_) => module.type_name().to_owned(),
        None => text,
    }
}
