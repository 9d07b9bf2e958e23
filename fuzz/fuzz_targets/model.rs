//! Fuzzes whole models: the input is the architecture, with a few tensors that it may name; the resulting model is run.
#![no_main]

use kiln_io::{Metadata, load_model, save_with_metadata};
use kiln_tensor::{Device, StateDict, Tensor};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|architecture: &str| {
    let Ok(file) = tempfile::NamedTempFile::new() else { return };
    let text = format!(r#"{{"version":1,"architecture":{architecture}}}"#);
    let names = ["weight", "bias", "0.weight", "0.bias", "1.weight", "running_mean", "running_var"];
    let state: Option<StateDict> =
        names.iter().map(|name| Some(((*name).to_owned(), Tensor::ones([2, 2], Device::Cpu).ok()?))).collect();
    let Some(mut state) = state else { return };
    // Those that the text does not mention would be an error before anything else.
    state.retain(|name, _| architecture.contains(name.rsplit('.').next().unwrap_or(name)));
    if save_with_metadata(file.path(), &state, &Metadata::from([("kiln.model".into(), text)])).is_ok()
        && let (Ok(model), Ok(x)) = (load_model(file.path(), Device::Cpu), Tensor::ones([1, 2, 4, 4], Device::Cpu))
    {
        let _ = (model.forward(&x), model.to_string());
    }
});
