//! NumPy's arrays and archives, read and written.

use std::{fs, path::PathBuf};

use crate::{checkout, rewrite::rewrite};
use kiln_io::{LoadOptions, load_npy, load_npz, save_npy, save_npz, save_npz_compressed};
use kiln_tensor::{DType, Device, ErrorKind, Result, StateDict, Tensor};
use serde_json::Value;
use tempfile::tempdir;

fn path(name: &str) -> PathBuf {
    checkout::path("tests/golden/npy").join(name)
}

fn golden() -> serde_json::Map<String, Value> {
    serde_json::from_slice(&fs::read(path("values.json")).unwrap()).unwrap()
}

/// The dtype of a tensor of these elements.
fn dtype(numpy: &str) -> DType {
    match numpy {
        "float16" => DType::F16,
        "float32" => DType::F32,
        "float64" => DType::F64,
        "int8" | "int16" | "uint16" | "int32" => DType::I32,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        _ => DType::I64,
    }
}

#[track_caller]
fn assert_is(tensor: &Tensor, want: &Value, name: &str) {
    assert_eq!(tensor.dtype(), dtype(want["dtype"].as_str().unwrap()), "{name}");
    assert_eq!(serde_json::json!(tensor.dims()), want["shape"], "{name}");
    let values = want["values"].as_array().unwrap();
    if tensor.dtype().is_float() {
        let got = tensor.to_dtype(DType::F64).unwrap().to_vec::<f64>().unwrap();
        let want: Vec<f64> = values.iter().map(|value| value.as_f64().unwrap()).collect();
        assert_eq!(got, want, "{name}");
    } else {
        let got = tensor.to_dtype(DType::I64).unwrap().to_vec::<i64>().unwrap();
        let want: Vec<i64> = values.iter().map(|value| value.as_i64().unwrap()).collect();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn arrays_of_numpy_are_read() -> Result<()> {
    let mut archives = std::collections::HashMap::new();
    let mut counts = [0; 2];
    for (name, want) in golden() {
        match name.split_once(".npz/") {
            None => {
                assert_is(&load_npy(path(&name), Device::Cpu)?, &want, &name);
                counts[0] += 1;
            }
            Some((archive, array)) => {
                let file = format!("{archive}.npz");
                if !archives.contains_key(&file) {
                    archives.insert(file.clone(), load_npz(path(&file), Device::Cpu)?);
                }
                let state: &StateDict = &archives[&file];
                assert_is(&state[array], &want, &name);
                counts[1] += 1;
            }
        }
    }
    assert_eq!(counts, [11, 20]);
    assert_eq!(archives.values().map(StateDict::len).sum::<usize>(), 20);
    // The options of loading.
    let options = LoadOptions::new(Device::Cpu).dtype(DType::BF16);
    assert_eq!(load_npy(path("fortran.npy"), options.clone())?.dtype(), DType::BF16);
    assert_eq!(load_npz(path("compressed.npz"), options.strip_prefix("arr_"))?["0"].dtype(), DType::BF16);
    Ok(())
}

/// Byte for byte what NumPy writes.
#[test]
fn arrays_are_written_as_numpy_writes_them() -> Result<()> {
    let folder = tempdir().unwrap();
    for name in ["plain", "scalar", "empty", "vector", "bytes", "bools", "halves"] {
        let (file, written) = (path(&format!("{name}.npy")), folder.path().join(name));
        save_npy(&written, &load_npy(&file, Device::Cpu)?)?;
        assert_eq!(fs::read(&written).unwrap(), fs::read(&file).unwrap(), "{name}");
    }
    // A view is written in its own order.
    let written = folder.path().join("transposed");
    save_npy(&written, &load_npy(path("fortran.npy"), Device::Cpu)?.transpose(0, 2)?)?;
    assert_eq!(load_npy(&written, Device::Cpu)?.dims(), [4, 3, 2]);
    let error = save_npy(&written, &Tensor::zeros(2, DType::BF16)?).unwrap_err().to_string();
    assert!(error.contains("save_npy") && error.contains("bf16"), "{error}");
    Ok(())
}

#[test]
fn archives_come_back() -> Result<()> {
    let folder = tempdir().unwrap();
    let state = StateDict::from([
        ("layer.weight".to_owned(), Tensor::randn([30, 20], Device::Cpu)?),
        ("naïve".to_owned(), Tensor::arange(0, 5, Device::Cpu)?),
        ("none".to_owned(), Tensor::zeros([3, 0], DType::Bool)?),
        ("a/b".to_owned(), Tensor::full((), 7, DType::U8)?.to_dtype(DType::F16)?),
    ]);
    for compressed in [false, true] {
        let file = folder.path().join("x.npz");
        if compressed {
            save_npz_compressed(&file, &state)?;
        } else {
            save_npz(&file, &state)?;
        }
        let back = load_npz(&file, Device::Cpu)?;
        assert_eq!(back.len(), 4);
        for (name, tensor) in &state {
            assert_eq!((back[name].dims(), back[name].dtype()), (tensor.dims(), tensor.dtype()));
            let values = |t: &Tensor| t.to_dtype(DType::F64)?.to_vec::<f64>();
            assert_eq!(values(&back[name])?, values(tensor)?, "{name}");
        }
    }
    // More entries than 16 bits count.
    let many: StateDict =
        (0..65_540u32).map(|i| (i.to_string(), Tensor::from_slice(&[i as u8], (), Device::Cpu).unwrap())).collect();
    let file = folder.path().join("many.npz");
    save_npz(&file, &many)?;
    let back = load_npz(&file, LoadOptions::new(Device::Cpu).memory_limit(1 << 30))?;
    assert_eq!((back.len(), back["65539"].item::<u8>()?), (65_540, 3));
    let long = StateDict::from([("x".repeat(65_533), Tensor::zeros((), Device::Cpu)?)]);
    assert!(save_npz(&file, &long).unwrap_err().to_string().contains("too long"));
    Ok(())
}

/// `pip install numpy`, then `cargo test -p kiln-io --test suite npy -- --ignored`; `KILN_PYTHON` names another Python than
/// `python3`.
#[test]
#[ignore = "needs Python with numpy"]
fn numpy_reads_them() -> Result<()> {
    let folder = tempdir().unwrap();
    let state = StateDict::from([
        ("layer.weight".to_owned(), Tensor::arange(0, 600, Device::Cpu)?.to_dtype(DType::F32)?.reshape([30, 20])?),
        ("naïve/x".to_owned(), Tensor::arange(0, 5, Device::Cpu)?),
    ]);
    let many =
        (0..65_540).map(|i| Ok((i.to_string(), Tensor::full((), i % 100, DType::U8)?))).collect::<Result<_>>()?;
    save_npz(folder.path().join("plain.npz"), &state)?;
    save_npz_compressed(folder.path().join("compressed.npz"), &state)?;
    save_npz(folder.path().join("many.npz"), &many)?;
    let script = "
import sys, zipfile, numpy as np
for name in ['plain', 'compressed']:
    path = f'{sys.argv[1]}/{name}.npz'
    assert zipfile.ZipFile(path).testzip() is None
    file = np.load(path)
    assert (file['layer.weight'] == np.arange(600, dtype='f4').reshape(30, 20)).all()
    assert (file['naïve/x'] == np.arange(5)).all() and len(file.files) == 2
many = np.load(f'{sys.argv[1]}/many.npz')
assert len(many.files) == 65540 and many['65539'] == 39
";
    let python = std::env::var("KILN_PYTHON").unwrap_or_else(|_| "python3".into());
    let output = std::process::Command::new(python).args(["-c", script]).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[track_caller]
fn refused(result: Result<impl Sized>, want: &str) {
    let error = result.err().unwrap();
    assert!(matches!(error.kind(), ErrorKind::File { .. } | ErrorKind::Io { .. }), "{error}");
    assert!(error.to_string().contains(want), "{want}: {error}");
}

#[test]
fn what_is_no_tensor_is_refused() {
    for (name, want) in [
        ("object", "Python objects"),
        ("text", "text"),
        ("complex", "complex numbers"),
        ("structure", "structures"),
        ("date", "dates"),
        ("large", "above i64::MAX"),
    ] {
        refused(load_npy(path(&format!("{name}.npy")), Device::Cpu), want);
    }
    refused(load_npz(path("other.npz"), Device::Cpu), "notes.txt");
    refused(load_npz(path("plain.npy"), Device::Cpu), "zip archive");
    refused(load_npy(path("plain.npz"), Device::Cpu), "not an array of NumPy");
    refused(load_npy(path("missing.npy"), Device::Cpu), "missing.npy");
    refused(load_npy(path("plain.npy"), LoadOptions::new(Device::Cpu).key("model")), "no dict");
}

/// Every truncation and every changed byte of small files gives an error or a tensor that fits into the file; never a panic,
/// nor memory that a header made up.
#[test]
fn hostile_files_are_errors() -> Result<()> {
    let folder = tempdir().unwrap();
    let file = folder.path().join("x");
    let small = StateDict::from([("a".to_owned(), Tensor::randn([2, 2], Device::Cpu)?)]);
    let archives = [false, true].map(|compressed| {
        if compressed {
            save_npz_compressed(&file, &small).unwrap();
        } else {
            save_npz(&file, &small).unwrap();
        }
        fs::read(&file).unwrap()
    });
    for (bytes, is_archive) in
        [(fs::read(path("plain.npy")).unwrap(), false), (archives[0].clone(), true), (archives[1].clone(), true)]
    {
        let check = |bytes: &[u8]| {
            rewrite(&file, bytes);
            let loaded = if is_archive {
                load_npz(&file, Device::Cpu).map(|state| state.into_values().map(|t| t.numel()).sum())
            } else {
                load_npy(&file, Device::Cpu).map(|tensor| tensor.numel())
            };
            match loaded {
                Ok(numel) => assert!(numel <= 64, "{numel} elements"),
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::File { .. } | ErrorKind::OutOfMemory { .. }), "{error}");
                }
            }
        };
        for len in 0..bytes.len() {
            check(&bytes[..len]);
        }
        for at in 0..bytes.len() {
            for value in [0, 0xff, b'9', bytes[at] ^ 1] {
                let mut changed = bytes.clone();
                changed[at] = value;
                check(&changed);
            }
        }
    }
    // Headers that lie about sizes.
    for shape in ["(9999999999999, 9999999999)", "(4294967296,)", "(100000,)", "(0, 18446744073709551615)"] {
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}");
        let mut bytes = b"\x93NUMPY\x01\0".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend([0; 16]);
        fs::write(&file, &bytes).unwrap();
        let loaded = load_npy(&file, Device::Cpu);
        if !shape.starts_with("(0") {
            refused(loaded, "do not fit");
        }
    }
    // A small archive that unpacks to much more than it says, and one whose checksum is wrong.
    save_npz_compressed(&file, &StateDict::from([("a".to_owned(), Tensor::zeros([1 << 16], Device::Cpu)?)]))?;
    let mut bytes = fs::read(&file).unwrap();
    let directory = bytes.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
    bytes[directory + 16] ^= 1;
    fs::write(&file, &bytes).unwrap();
    refused(load_npz(&file, Device::Cpu), "checksum");
    bytes[directory + 16] ^= 1;
    bytes[directory + 24..directory + 28].copy_from_slice(&200u32.to_le_bytes());
    fs::write(&file, &bytes).unwrap();
    refused(load_npz(&file, Device::Cpu), "not as long as");
    Ok(())
}
