//! Files of NumPy: arrays (`.npy`) and archives of them (`.npz`).

mod archive;
mod header;
mod write;

use std::{fs::File, io::Write, path::Path};

use kiln_derive::located;
use kiln_tensor::{Error, Result, StateDict, Tensor};

use crate::{
    atomic,
    budget::{self, Budget},
    load_options::LoadOptions,
    names::Names,
    source::Source,
    zip,
};
use archive::Contents;
use header::Header;

/// Loads an array that `numpy.save` wrote, of any byte order and memory order
/// (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
///
/// `float16`, `float32`, `float64`, `int32`, `int64`, `uint8` and `bool` become tensors of the same dtype. Kiln has no other
/// integers: `int8`, `int16` and `uint16` become `i32`, `uint32` and `uint64` become `i64`. An array in Fortran order becomes a
/// tensor of the same shape, a transposed view.
///
/// ```
/// # use kiln_tensor::{Device, Tensor};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("x.npy");
/// kiln_io::save_npy(&path, &Tensor::ones([2, 3], Device::Cpu)?)?; // numpy.load("x.npy")
/// assert_eq!(kiln_io::load_npy(&path, Device::Cpu)?.dims(), [2, 3]);
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Io`](kiln_tensor::ErrorKind::Io) or [`ErrorKind::File`](kiln_tensor::ErrorKind::File), both with the path, if
/// the file cannot be read, is damaged, takes more memory than [`LoadOptions::memory_limit`] allows, or holds what is no tensor
/// of numbers: objects (which are pickled, and never run), structures, strings, dates, complex numbers, a `uint64` above
/// `i64::MAX`; [`ErrorKind::OutOfMemory`](kiln_tensor::ErrorKind::OutOfMemory) if memory runs out; or if the device is not
/// available.
#[located(site)]
pub fn load_npy(path: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<Tensor> {
    let (source, options) = (Source::open(path.as_ref())?, options.into());
    options.needs_no_key(source.path())?;
    let mut budget = Budget::new(&source, &options);
    let contents = Contents::File { source: &source, start: 0, len: source.len() };
    let tensor = read(&contents, &source, &options, &mut budget, "")?;
    source.check_unchanged()?;
    Ok(tensor)
}

/// Loads the arrays that `numpy.savez` or `savez_compressed` wrote, by their names (`arr_0`, … if they were given none), in the
/// order of the names. Dtypes are those of [`load_npy`].
///
/// # Errors
/// Those of [`load_npy`]; or if the archive is damaged or encrypted, its checksums do not match, or it has other files in it.
#[located(site)]
pub fn load_npz(path: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<StateDict> {
    let (source, options) = (Source::open(path.as_ref())?, options.into());
    options.needs_no_key(source.path())?;
    let mut budget = Budget::new(&source, &options);
    let records = zip::records(&source, &mut budget)?;
    let mut names: Vec<&String> = Vec::new();
    for name in records.keys() {
        budget.push(&mut names, name)?;
    }
    names.sort_unstable();
    let mut state = Names::new(source.path(), &options);
    for file in names {
        let Some(name) = file.strip_suffix(".npy") else {
            return Err(Error::file(source.path(), format!("its {file:?} is not an array, whose name ends in .npy")));
        };
        let contents = Contents::of(&records[file], file, &source, &mut budget)?;
        budget.spend(name.len())?;
        let tensor = read(&contents, &source, &options, &mut budget, file)?;
        contents.give_back(&mut budget);
        state.insert(name, tensor)?;
    }
    source.check_unchanged()?;
    Ok(state.finish())
}

/// Saves a tensor as an array that `numpy.load` reads, atomically, in C order.
///
/// # Errors
/// If the tensor is `bf16`, which NumPy does not have, the file cannot be written, or the tensor cannot be read from its
/// device.
#[located(site)]
pub fn save_npy(path: impl AsRef<Path>, tensor: &Tensor) -> Result<()> {
    let path = path.as_ref();
    let header = write::header(tensor, "save_npy")?;
    let values = crate::save::to_host(tensor)?;
    atomic::write(path, |file: &mut File| {
        file.write_all(&header).and_then(|()| file.write_all(values.bytes())).map_err(|e| Error::io(path, e))
    })
}

/// Saves tensors as an archive that `numpy.load` reads, atomically: PyTorch's and NumPy's `numpy.savez(path, **arrays)`.
///
/// # Errors
/// Those of [`save_npy`]; or if a name is too long for a zip archive (65,531 bytes).
#[located(site)]
pub fn save_npz(path: impl AsRef<Path>, state: &StateDict) -> Result<()> {
    write::archive(path.as_ref(), state, false)
}

/// [`save_npz`] with compression: `numpy.savez_compressed(path, **arrays)`.
///
/// # Errors
/// Those of [`save_npz`].
#[located(site)]
pub fn save_npz_compressed(path: impl AsRef<Path>, state: &StateDict) -> Result<()> {
    write::archive(path.as_ref(), state, true)
}

/// Reads one array; `name` is its name in an archive.
fn read(
    contents: &Contents<'_>,
    source: &Source,
    options: &LoadOptions,
    budget: &mut Budget,
    name: &str,
) -> Result<Tensor> {
    let wrong = |message: String| {
        let of = if name.is_empty() { String::new() } else { format!("{name:?}: ") };
        Error::file(source.path(), format!("{of}{message}"))
    };
    let (header, start) = Header::read(contents, budget)?.map_err(wrong)?;
    let Header { kind, swapped, fortran, shape } = header;
    let numel = shape.numel();
    let bytes = numel
        .checked_mul(kind.size())
        .filter(|bytes| start.checked_add(*bytes).is_some_and(|end| end <= contents.len()));
    let Some(bytes) = bytes else {
        let has = contents.len() - start;
        return Err(wrong(format!("{shape} elements of {} bytes do not fit into its {has} bytes", kind.size())));
    };
    budget.spend(budget::TENSOR + options.size_of(kind.dtype(), numel))?;
    let stored = if fortran { shape.reversed() } else { shape.clone() };
    let stored = kiln_tensor::Shape::new(&stored.0)?;
    let tensor = if kind.is_native() {
        source.tensor(kind.dtype(), stored, options.device(), |out| {
            contents.read_into(start, out)?;
            if swapped {
                out.chunks_exact_mut(kind.size()).for_each(<[u8]>::reverse);
            }
            Ok(())
        })?
    } else {
        budget.spend(bytes)?;
        let mut raw = contents.read(start, bytes, budget)?;
        if swapped {
            raw.chunks_exact_mut(kind.size()).for_each(<[u8]>::reverse);
        }
        let tensor = kind.widened(&raw, stored, options.device())?.map_err(wrong)?;
        budget.give_back(bytes);
        tensor
    };
    contents.check(start + bytes).map_err(wrong)?;
    let tensor = if fortran && tensor.rank() > 1 {
        let order: Vec<i64> = (0..tensor.rank() as i64).rev().collect();
        kiln_tensor::no_grad(|| tensor.permute(&order[..]))?
    } else {
        tensor
    };
    options.converted(tensor)
}
