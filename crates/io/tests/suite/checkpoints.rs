//! Checkpoints found in practice (`tests/golden/make_checkpoints.py`): old protocols, Python 2, objects of other
//! classes beside the tensors; and files without a state dict, whose errors say what they are.

use std::{collections::HashMap, fs, path::PathBuf};

use crate::checkout;
use kiln_io::{LoadOptions, PthFile, PthObject, PthValue, load, save};
use kiln_nn::{BatchNorm2d, Conv2d, ModuleTree, Sequential, seq};
use kiln_tensor::{Device, Result, StateDict, Tensor};
use tempfile::tempdir;

fn golden(name: &str) -> PathBuf {
    checkout::path("tests/golden/pth/checkpoints").join(name)
}

/// The tensors of one file, by their names.
fn expected(file: &str) -> HashMap<String, Tensor> {
    let all = load(golden("expected.safetensors"), Device::Cpu).unwrap();
    let own = |name: &String| Some(name.strip_prefix(file)?.strip_prefix('/')?.to_owned());
    all.iter().filter_map(|(name, tensor)| Some((own(name)?, tensor.clone()))).collect()
}

fn assert_holds(file: &str, state: &StateDict) {
    let want = expected(file);
    assert_eq!(state.len(), want.len(), "{file}: {:?}", state.keys());
    for (name, tensor) in state {
        let want = &want[name];
        assert_eq!((tensor.dtype(), tensor.dims()), (want.dtype(), want.dims()), "{file} {name}");
        assert!(tensor.eq(want).unwrap().all(()).unwrap().item::<bool>().unwrap(), "{file} {name}");
    }
}

#[test]
fn every_protocol_of_either_format_loads() {
    for legacy in ["zip", "legacy"] {
        for protocol in 2..6 {
            let file = format!("foreign_{legacy}_{protocol}.pth");
            assert_holds(&file, &load(golden(&file), Device::Cpu).unwrap_or_else(|e| panic!("{e}")));
        }
    }
    for file in ["legacy_1.pth", "python_2.pth"] {
        assert_holds(file, &load(golden(file), Device::Cpu).unwrap_or_else(|e| panic!("{e}")));
    }
}

#[test]
fn objects_of_other_classes_are_values_with_a_class_name() {
    for file in ["foreign_zip_2.pth", "foreign_zip_5.pth", "foreign_legacy_2.pth", "foreign_legacy_5.pth"] {
        let file = PthFile::open(golden(file)).unwrap();
        let value = |key: &str| file.value().get(key).unwrap_or_else(|| panic!("{key}"));
        let object = |key: &str| -> &PthObject {
            if let PthValue::Object(object) = value(key) { object } else { panic!("{key}: {:?}", value(key)) }
        };
        let args = value("args");
        assert_eq!(object("args").class(), "argparse.Namespace");
        assert_eq!(args.get("lr").and_then(PthValue::number), Some(0.25));
        assert!(matches!(args.get("data"), Some(PthValue::Object(path)) if path.class() == "pathlib.PurePosixPath"));
        assert!(matches!(object("path").arguments(), [PthValue::Str(a), PthValue::Str(b)] if a == "runs" && b == "1"));
        assert_eq!(object("windows").class(), "pathlib.PureWindowsPath");
        assert_eq!(object("hyper_parameters").class(), "pytorch_lightning.utilities.parsing.AttributeDict");
        assert_eq!(value("hyper_parameters").get("lr").and_then(PthValue::number), Some(0.5));
        assert!(matches!(value("complex"), PthValue::Complex(re, im) if (*re, *im) == (1.5, -2.0)));
        assert_eq!(object("color").class(), "project.config.Color");
        assert!(matches!(object("color").arguments(), [PthValue::Int(1)]));
        assert_eq!(value("config").get("width").and_then(PthValue::number), Some(3.0));
        assert!(matches!(value("config").get("parent"), Some(PthValue::Other(_))), "itself");
        let child = value("omega").get("_content").and_then(|content| content.get("child")).unwrap();
        assert_eq!(child.get("_content").and_then(|content| content.get("lr")).and_then(PthValue::number), Some(0.1));
        for (key, class) in [
            ("when", "datetime.datetime"),
            ("delta", "datetime.timedelta"),
            ("numpy_dtype", "numpy.dtype"),
            ("array", "numpy.ndarray"),
            ("objects", "numpy.ndarray"),
            ("generator", "numpy.random._pickle.__randomstate_ctor"),
            ("deque", "collections.deque"),
            ("sparse", "torch._utils._rebuild_sparse_tensor"),
            ("quantized", "torch._utils._rebuild_qtensor"),
        ] {
            assert_eq!(object(key).class(), class);
        }
        assert!(object("slice").class().ends_with(".slice") && object("range").class().ends_with("range"));
        assert!(matches!(value("dtype"), PthValue::Str(dtype) if dtype == "torch.bfloat16"));
        assert!(matches!(value("device"), PthValue::Str(device) if device == "cuda:3"), "{:?}", value("device"));
        assert!(matches!(value("scalar"), PthValue::Int(-7)));
        assert!(matches!(value("complex_scalar"), PthValue::Complex(re, im) if (*re, *im) == (2.0, 3.0)));
        assert!(
            matches!(value("size"), PthValue::Tuple(size) if matches!(size[..], [PthValue::Int(2), PthValue::Int(5)]))
        );
        assert!(matches!(value("rng"), PthValue::Other(name) if name == "int"));
        assert!(matches!(value("function"), PthValue::Other(name) if name == "torch.nn.functional.relu"));
        assert!(matches!(value("surrogate"), PthValue::Str(text) if text.starts_with("caf")));
        assert!(
            matches!(value("bytearray"), PthValue::Bytes(bytes) if bytes[..] == [1, 2]),
            "{:?}",
            value("bytearray")
        );
        // Shortened, with what refers to itself.
        assert!(format!("{file:?}").contains("argparse.Namespace"));
        let message = file.state_dict(LoadOptions::default().key("omega")).unwrap_err().to_string();
        assert!(message.contains("is not a dict but an object of class"), "{message}");
    }
}

#[test]
fn a_tensor_of_a_kind_that_kiln_does_not_have_is_not_left_out() {
    // {"a": _rebuild_sparse_tensor(…), "b": a tensor}
    let folder = tempdir().unwrap();
    let path = folder.path().join("sparse.pth");
    let mut bytes = fs::read(golden("legacy_1.pth")).unwrap();
    // The second tensor names its function again by the memo, so this one tensor is of another kind.
    let name = b"ctorch._utils\n_rebuild_tensor_v2\nq";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap();
    let memo = bytes[at + name.len()];
    let other = b"ctorch._utils\n_rebuild_sparse_v2\nq";
    let second = at + name.len() + bytes[at + name.len()..].windows(2).position(|w| w == [b'h', memo]).unwrap();
    bytes.splice(second..second + 2, [&other[..], &[memo]].concat());
    fs::write(&path, bytes).unwrap();
    let message = load(&path, Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("\"bias\" is made by torch._utils._rebuild_sparse_v2"), "{message}");
}

fn norm() -> Result<Sequential> {
    Ok(seq![Conv2d::new(1, 2, 1)?, BatchNorm2d::new(2)?])
}

#[test]
fn weights_from_before_batches_were_counted_load_strictly() -> Result<()> {
    for file in ["norm_version_1.pth", "norm_no_version.pth"] {
        let state = load(golden(file), Device::Cpu)?;
        assert_holds(file, &state);
        let last: Vec<&str> = state.keys().skip(4).map(String::as_str).collect();
        assert_eq!(last, ["1.running_mean", "1.running_var", "1.num_batches_tracked"], "as PyTorch has them");
        norm()?.load_state_dict(&state, true)?;
    }
    // Of version 2 the count is missing, in PyTorch too.
    let message = norm()?.load_state_dict(&load(golden("norm_version_2.pth"), Device::Cpu)?, true).unwrap_err();
    assert!(message.to_string().contains("num_batches_tracked"), "{message}");

    // safetensors files state no versions.
    let folder = tempdir().unwrap();
    let path = folder.path().join("old.safetensors");
    let state = load(golden("norm_version_2.pth"), Device::Cpu)?;
    save(&path, &state)?;
    assert_eq!(load(&path, Device::Cpu)?.len(), state.len(), "a file of Kiln is what its model has");
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(10).position(|w| w == b"kiln.crc32").unwrap();
    let foreign = [&bytes[..at], b"else.crc32", &bytes[at + 10..]].concat();
    fs::write(&path, foreign).unwrap();
    norm()?.load_state_dict(&load(&path, Device::Cpu)?, true).map(drop)
}

#[test]
fn a_prefix_that_all_names_share_is_offered_and_stripped() -> Result<()> {
    let file = golden("norm_parallel.pth");
    let model = norm()?;
    let message = model.load_state_dict(&load(&file, Device::Cpu)?, true).unwrap_err().to_string();
    assert!(message.contains("`LoadOptions::strip_prefix(\"module.\")`"), "{message}");
    let state = load(&file, LoadOptions::default().strip_prefix("module."))?;
    model.load_state_dict(&state, true)?;
    // In the other formats, and where only some names have it.
    let folder = tempdir().unwrap();
    let one = || Tensor::ones([1], Device::Cpu);
    let named =
        |names: [&str; 2]| -> Result<StateDict> { names.into_iter().map(|n| Ok((n.to_owned(), one()?))).collect() };
    let part = folder.path().join("part.safetensors");
    save(&part, &named(["module.a", "b"])?)?;
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map":{"b":"part.safetensors","module.a":"part.safetensors"}}"#).unwrap();
    let options = LoadOptions::default().strip_prefix("module.");
    assert_eq!(load(&part, options.clone())?.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(load(&index, options.clone())?.keys().collect::<Vec<_>>(), ["b", "a"]);
    save(&part, &named(["module.a", "a"])?)?;
    let message = load(&part, options).unwrap_err().to_string();
    assert!(message.contains("\"a\"") && message.contains("part.safetensors"), "{message}");
    Ok(())
}

#[test]
fn a_key_that_names_no_tensors_is_an_error() {
    let file = golden("no_tensors_there.pth");
    assert_eq!(load(&file, LoadOptions::default().key("state_dict")).unwrap().len(), 2);
    let message = load(&file, LoadOptions::default().key("model")).unwrap_err().to_string();
    assert!(
        message.contains("\"model\"") && message.contains("without tensors") && message.contains("\"epoch\""),
        "{message}"
    );
}

#[test]
fn what_holds_no_state_dict_is_told_what_to_do() {
    for (file, parts) in [
        ("whole_zip.pth", &["torch.nn.modules.container.Sequential", "model.state_dict()"][..]),
        ("whole_legacy.pth", &["torch.nn.modules.container.Sequential", "model.state_dict()"]),
        ("whole_inside.pth", &["\"model\" is an object", "model.state_dict()"]),
        ("script.pt", &["TorchScript", "state_dict()"]),
        ("exported.pt2", &["torch.export", "state_dict"]),
        ("array.npy", &[".npy", "safetensors.numpy"]),
        ("arrays.npz", &[".npz", "safetensors.numpy"]),
        ("plain.pkl", &["a Python pickle", "torch.save"]),
    ] {
        let message = load(golden(file), Device::Cpu).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)) && message.contains(file), "{message}");
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    let tar = [&[b'a'; 257][..], b"ustar\0"].concat();
    for (bytes, want) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"[..], "git lfs pull"),
        (b"\n <!doctype HTML><html></html>", "web page"),
        (b"\xef\xbb\xbf<html>", "web page"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey", "web page"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        (b"epoch,loss\n1,0.5\n", "text"),
        ("caf\u{e9} au lait\n".as_bytes(), "text"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\x08\x08\x12\x07pytorch", "ONNX"),
        (&tar, "tar archive"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\0", "PNG"),
        (b"\x80\x04\x95\x05\0\0\0\0\0\0\0K\x01.", "Python pickle"),
    ] {
        fs::write(&path, bytes).unwrap();
        let message = load(&path, Device::Cpu).unwrap_err().to_string();
        assert!(message.contains(want) && message.contains("weights.bin"), "{want}: {message}");
    }
}
