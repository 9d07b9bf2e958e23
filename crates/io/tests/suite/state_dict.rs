//! Saved state dicts are restored exactly: names, order, shapes, dtypes and every bit.

use std::{collections::HashMap, fs};

use kiln_backend::half::{bf16, f16};
use kiln_io::{Metadata, TensorFile, load, save, save_with_metadata};
use kiln_tensor::{DType, Device, Element, Result, StateDict, Tensor};
use safetensors::SafeTensors;
use tempfile::tempdir;

fn tensor<T: Element>(values: Vec<T>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, Device::Cpu).unwrap()
}

fn one_of_each() -> StateDict {
    let mut state = StateDict::new();
    state.insert("mask".into(), tensor(vec![true, false, true], &[3]));
    state.insert("z.weight".into(), tensor(vec![1.5f32, -0.0, f32::NAN, f32::MIN_POSITIVE / 4.0, 1e30, 0.1], &[2, 3]));
    state.insert("a.weight".into(), tensor(vec![0.1f64, f64::INFINITY], &[1, 2]));
    state.insert("half".into(), tensor(vec![f16::from_f32(0.1), f16::NEG_INFINITY], &[2]));
    state.insert("brain".into(), tensor(vec![bf16::from_f32(0.1)], &[1, 1, 1]));
    state.insert("steps".into(), tensor(vec![i64::MIN], &[]));
    state.insert("labels".into(), tensor(vec![i32::MAX, -1], &[2]));
    state.insert("pixels".into(), tensor((0..=255u8).collect(), &[16, 16]));
    state.insert("nothing".into(), tensor(Vec::<f32>::new(), &[0, 5]));
    state.insert("quoted \"name\"\n\u{e9}".into(), tensor(vec![7u8], &[1]));
    state
}

fn bits(tensor: &Tensor) -> Vec<u8> {
    fn of<T: Element>(tensor: &Tensor) -> Vec<u8> {
        T::into_host(tensor.to_vec::<T>().unwrap()).bytes().to_vec()
    }
    kiln_backend::dispatch_dtype!(tensor.dtype(), T => of::<T>(tensor))
}

#[test]
fn every_dtype_comes_back_bit_for_bit() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let state = one_of_each();
    save(&path, &state)?;
    let back = load(&path, Device::Cpu)?;
    assert_eq!(back.len(), state.len());
    for (name, tensor) in &state {
        let got = back.get(name).unwrap();
        assert_eq!((got.dtype(), got.dims()), (tensor.dtype(), tensor.dims()), "{name}");
        assert_eq!(bits(got), bits(tensor), "{name}");
    }
    assert_eq!(DType::ALL.iter().filter(|d| !state.iter().any(|(_, t)| t.dtype() == **d)).count(), 0);
    Ok(())
}

#[test]
fn tensors_of_one_dtype_keep_their_order_and_the_same_state_gives_the_same_file() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let names = ["10.weight", "2.weight", "2.bias", "empty", "1.bias"];
    let size = |name: &str| usize::from(name != "empty");
    let state: StateDict = names.map(|name| (name.to_owned(), tensor(vec![1f32; size(name)], &[size(name)]))).into();
    save(&path, &state)?;
    assert_eq!(load(&path, Device::Cpu)?.keys().collect::<Vec<_>>(), names);
    let first = fs::read(&path).unwrap();
    save(&path, &state)?;
    assert_eq!(fs::read(&path).unwrap(), first);
    Ok(())
}

#[test]
fn the_reference_reader_reads_our_files_aligned() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let metadata = Metadata::from([("note".to_owned(), "caf\u{e9}".to_owned())]);
    save_with_metadata(&path, &one_of_each(), &metadata)?;
    let bytes = fs::read(&path).unwrap();
    let (length, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["note"], "caf\u{e9}");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), one_of_each().len());
    for (name, info) in header.tensors() {
        let start = 8 + length + info.data_offsets.0;
        assert_eq!(start % (info.dtype.bitsize() / 8), 0, "{name} is not aligned");
    }
    assert_eq!(file.tensor("pixels").unwrap().data(), (0..=255u8).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn files_of_other_writers_load_without_a_checksum() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let values: Vec<u8> = [1f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![3], &values).unwrap();
    let metadata = Some(HashMap::from([("format".to_owned(), "pt".to_owned())]));
    fs::write(&path, safetensors::serialize([("w", view)], metadata).unwrap()).unwrap();
    assert_eq!(load(&path, Device::Cpu)?.get("w").unwrap().to_vec::<f32>()?, [1.0, 2.0, 3.0]);
    Ok(())
}

#[test]
fn single_tensors_load_from_an_open_file() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    save(&path, &one_of_each())?;
    let file = TensorFile::open(&path)?;
    let (_, info) = file.tensors().find(|(name, _)| *name == "z.weight").unwrap();
    assert_eq!((info.dtype, info.shape.dims()), (DType::F32, &[2, 3][..]));
    assert_eq!(file.tensor("labels", Device::Cpu)?.to_vec::<i32>()?, [i32::MAX, -1]);
    let error = file.tensor("label", Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("label") && error.contains("state.safetensors"), "{error}");
    Ok(())
}

#[test]
fn an_empty_state_dict_is_a_file_too() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("empty.safetensors");
    save(&path, &StateDict::new())?;
    assert!(load(&path, Device::Cpu)?.is_empty());
    Ok(())
}

#[test]
fn the_format_keeps_one_name_for_itself() {
    let folder = tempdir().unwrap();
    let state: StateDict = [("__metadata__".to_owned(), tensor(vec![1u8], &[1]))].into();
    assert!(save(folder.path().join("x"), &state).is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
