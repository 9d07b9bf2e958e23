//! Files that PyTorch wrote (`tests/golden/make_pth.py`), compared with what PyTorch says is in them.

use std::{collections::HashMap, fs, path::PathBuf, sync::OnceLock};

use crate::checkout;
use kiln_io::{LoadOptions, PthFile, PthValue, load};
use kiln_tensor::{DType, Device, Element, StateDict, Tensor};
use tempfile::tempdir;

fn golden(name: &str) -> PathBuf {
    checkout::path("tests/golden/pth").join(name)
}

/// The tensors of one file, by their names.
fn expected(file: &str) -> HashMap<String, Tensor> {
    static ALL: OnceLock<StateDict> = OnceLock::new();
    let all = ALL.get_or_init(|| load(golden("expected.safetensors"), Device::Cpu).unwrap());
    let own = |name: &String| Some(name.strip_prefix(file)?.strip_prefix('/')?.to_owned());
    all.iter().filter_map(|(name, tensor)| Some((own(name)?, tensor.clone()))).collect()
}

fn bits(tensor: &Tensor) -> Vec<u8> {
    fn of<T: Element>(tensor: &Tensor) -> Vec<u8> {
        T::into_host(tensor.to_vec::<T>().unwrap()).bytes().to_vec()
    }
    kiln_backend::dispatch_dtype!(tensor.dtype(), T => of::<T>(tensor))
}

fn assert_holds(file: &str, state: &StateDict) {
    let want = expected(file);
    assert_eq!(state.len(), want.len(), "{file}");
    for (name, tensor) in state {
        let want = &want[name];
        assert_eq!((tensor.dtype(), tensor.dims()), (want.dtype(), want.dims()), "{file} {name}");
        assert_eq!(bits(tensor), bits(want), "{file} {name}");
    }
}

#[test]
fn every_format_dtype_and_view_is_what_pytorch_reads() {
    for file in [
        "dtypes_zip.pth",
        "dtypes_legacy.pth",
        "views_zip.pth",
        "views_legacy.pth",
        "cuda_zip.pth",
        "cuda_legacy.pth",
        "big_endian.pth",
        "no_byteorder.pth",
        "parameters.pth",
        "checkpoint_zip.pth",
        "checkpoint_legacy.pth",
    ] {
        assert_holds(file, &load(golden(file), Device::Cpu).unwrap());
    }
    let names: Vec<_> = load(golden("dtypes_zip.pth"), Device::Cpu).unwrap().into_keys().collect();
    assert_eq!(names[..2], ["float32", "float64"], "the order of the file");
}

#[test]
fn tied_weights_share_memory_and_other_views_do_not() {
    for file in ["views_zip.pth", "views_legacy.pth"] {
        let state = load(golden(file), Device::Cpu).unwrap();
        assert!(state["base"].shares_memory(&state["same"]) && !state["base"].is_same(&state["same"]));
        assert!(!state["base"].shares_memory(&state["matrix"]));
        assert_eq!(state["expanded"].strides(), [0, 0], "one number in memory");
    }
}

#[test]
fn a_checkpoint_is_looked_into() {
    for file in ["checkpoint_zip.pth", "checkpoint_legacy.pth"] {
        let file = PthFile::open(golden(file)).unwrap();
        let value = |key: &str| file.value().get(key).unwrap_or_else(|| panic!("{key}"));
        assert!(matches!(value("epoch"), PthValue::Int(12)));
        assert!(matches!(value("best"), PthValue::Float(0.5)));
        assert!(matches!(value("nothing"), PthValue::None));
        assert!(matches!(value("done"), PthValue::Bool(true)));
        assert!(matches!(value("accuracy"), PthValue::Float(0.75)));
        let text = |key: &str| if let PthValue::Str(text) = value(key) { text.clone() } else { panic!("{key}") };
        assert_eq!([text("arch"), text("dtype"), text("device")], ["mlp", "torch.float16", "cuda:1"]);
        assert!(matches!(value("shape"), PthValue::Tuple(s) if matches!(s[..], [PthValue::Int(4), PthValue::Int(3)])));
        assert!(matches!(value("raw"), PthValue::Bytes(b) if b[..] == [0, 255]));
        assert!(matches!(value("tags"), PthValue::Set(s) if matches!(&s[..], [PthValue::Str(a)] if a == "a")));
        assert!(matches!(value("history"), PthValue::List(l) if l.len() == 2));
        assert!(matches!(value("milestones"), PthValue::Dict(d) if d.len() == 2));
        assert!(matches!(value("curve"), PthValue::Object(array) if array.class() == "numpy.ndarray"));

        // `state_dict` was taken before `ema`; either can be named.
        let state = file.state_dict(Device::Cpu).unwrap();
        let ema = file.state_dict(LoadOptions::new(Device::Cpu).key("ema").dtype(DType::F64)).unwrap();
        assert_eq!(state["0.weight"].dtype(), DType::F32);
        let halves: Vec<f64> = state["0.weight"].to_vec::<f32>().unwrap().iter().map(|w| f64::from(w * 0.5)).collect();
        assert_eq!(ema["0.weight"].to_vec::<f64>().unwrap(), halves);
        assert_eq!(state["2.num_batches_tracked"].dtype(), DType::I64);
        assert_eq!(ema["2.num_batches_tracked"].dtype(), DType::F64, "half of an integer is a float there");

        // An optimizer's state lies deeper.
        let moments = file.value().get("optimizer").and_then(|o| o.get("state")).unwrap();
        let PthValue::Dict(moments) = moments else { panic!() };
        let (PthValue::Int(0), first) = &moments[0] else { panic!() };
        let Some(PthValue::Tensor(average)) = first.get("exp_avg") else { panic!() };
        assert_eq!((average.dims(), average.torch_dtype(), average.requires_grad()), (&[3, 4][..], "float32", false));
        assert_eq!(file.tensor(average, Device::Cpu).unwrap().dims(), [3, 4]);

        let message = file.state_dict(LoadOptions::new(Device::Cpu).key("emma")).unwrap_err().to_string();
        assert!(message.contains("\"emma\"") && message.contains("\"state_dict\""), "{message}");
        let message = file.state_dict(LoadOptions::new(Device::Cpu).key("epoch")).unwrap_err().to_string();
        assert!(message.contains("is not a dict"), "{message}");
    }
    let PthValue::Dict(parameters) = PthFile::open(golden("parameters.pth")).unwrap().value().clone() else { panic!() };
    assert!(parameters.iter().all(|(_, p)| matches!(p, PthValue::Tensor(p) if p.requires_grad())));
}

fn error_of(name: &str) -> String {
    let message = load(golden(name), Device::Cpu).unwrap_err().to_string();
    assert!(message.contains(name), "{message}");
    message
}

#[test]
fn what_kiln_cannot_hold_is_named() {
    for (file, parts) in [
        ("whole_model.pth", &["torch.nn.modules.container.Sequential", "model.state_dict()"][..]),
        ("one_tensor.pth", &["no dict of tensors"]),
        ("int16.pth", &["\"x\"", "torch.int16"]),
        ("uint16.pth", &["\"x\"", "torch.uint16"]),
        ("compressed.pth", &["compressed", "data.pkl"]),
        ("cifar_2.pkl", &["a Python pickle"]),
    ] {
        let message = error_of(file);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn what_is_no_file_of_weights_is_told() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    for (bytes, want) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"[..], "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        (b"{\"weights\": 1}", "weight_map"),
        (b"[1, 2, 3, 4, 5]", "safetensors"),
        (b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "no data.pkl"),
    ] {
        fs::write(&path, bytes).unwrap();
        let message = load(&path, Device::Cpu).unwrap_err().to_string();
        assert!(message.contains(want) && message.contains("weights.bin"), "{message}");
    }
    let message = load(golden("expected.safetensors"), LoadOptions::new(Device::Cpu).key("model")).unwrap_err();
    assert!(message.to_string().contains("\"model\""), "{message}");
}
