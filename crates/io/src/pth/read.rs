//! From storages to tensors.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    path::Path,
};

use kiln_tensor::{Error, Result, Shape, Tensor};

use super::{PthTensor, archive::Archive};
use crate::LoadOptions;

/// How much may be loaded of one file, which can name one storage in many ways: so many times its length. PyTorch's
/// own files stay at 1.
const TIMES: usize = 8;

/// Loads tensors of one file.
pub(super) struct Reading<'a> {
    path: &'a Path,
    file: &'a [u8],
    archive: &'a Archive,
    options: LoadOptions,
    /// What was loaded, for other tensors that are the same part of a storage.
    loaded: HashMap<Part<'a>, Tensor>,
    /// Storages whose checksum was compared.
    verified: HashSet<&'a str>,
    /// Bytes that may still be loaded.
    room: usize,
}

/// Storage, type, first element, extents and strides.
type Part<'a> = (&'a str, &'static str, usize, Vec<usize>, Vec<usize>);

impl<'a> Reading<'a> {
    pub fn new(path: &'a Path, file: &'a [u8], archive: &'a Archive, options: &LoadOptions) -> Reading<'a> {
        let room = file.len().saturating_mul(TIMES);
        Reading {
            path,
            file,
            archive,
            options: options.clone(),
            loaded: HashMap::new(),
            verified: HashSet::new(),
            room,
        }
    }

    pub fn tensor(&mut self, name: &str, tensor: &PthTensor) -> Result<Tensor> {
        let wrong = |message: String| Error::file(self.path, format!("tensor {name:?} {message}"));
        let kind = tensor.kind;
        let dtype = kind.dtype();
        let dtype = dtype.ok_or_else(|| wrong(format!("has dtype torch.{}, which Kiln does not have", kind.name)))?;
        let shape = Shape::new(&tensor.dims).map_err(|e| wrong(e.to_string()))?;
        let found = self.archive.storages.get_key_value(tensor.storage.as_str());
        let (key, stored) =
            found.ok_or_else(|| wrong(format!("lies in storage {:?}, which is not there", tensor.storage)))?;

        // A broadcast dimension is loaded once.
        let (mut dims, mut strides) = (tensor.dims.clone(), tensor.strides.clone());
        for (dim, stride) in dims.iter_mut().zip(&mut strides) {
            if *dim > 1 && *stride == 0 {
                *dim = 1;
            }
            if *dim == 1 {
                *stride = 0;
            }
        }
        let part = (key.as_str(), kind.name, tensor.offset, dims, strides);
        if let Some(same) = self.loaded.get(&part) {
            return expanded(same.detach(), &shape);
        }
        let (.., dims, strides) = &part;
        let storage = self.file.get(stored.bytes.clone()).unwrap_or_default();
        let view = View { dims, strides, offset: tensor.offset, size: kind.size };
        let bytes = view.check(storage.len()).map_err(wrong)?;
        self.room =
            self.room.checked_sub(bytes).ok_or_else(|| wrong("is one of too many views of one storage".into()))?;
        if self.verified.insert(key) {
            stored.verify(self.file).map_err(|e| wrong(format!("lies in storage {key:?}: {e}")))?;
        }
        let mut values = view.gather(storage);
        if self.archive.big_endian {
            values.to_mut().chunks_exact_mut(kind.size).for_each(<[u8]>::reverse);
        }
        let loaded = Tensor::from_bytes(&values, dtype, &dims[..], self.options.device())?;
        let loaded = self.options.converted(loaded)?;
        self.loaded.insert(part, loaded.clone());
        expanded(loaded, &shape)
    }
}

fn expanded(tensor: Tensor, shape: &Shape) -> Result<Tensor> {
    if tensor.shape() == shape { Ok(tensor) } else { kiln_tensor::no_grad(|| tensor.expand(shape)) }
}

/// Elements of a storage; sizes in elements but for `size`, that of one in bytes.
struct View<'a> {
    dims: &'a [usize],
    strides: &'a [usize],
    offset: usize,
    size: usize,
}

impl View<'_> {
    /// The number of bytes, if all of them are in a storage of `length` bytes, and none is there twice.
    fn check(&self, length: usize) -> Result<usize, String> {
        let numel = self.dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).ok_or("is too large")?;
        if numel == 0 {
            return Ok(0);
        }
        let reach = self.dims.iter().zip(self.strides).try_fold(0usize, |reach, (&dim, &stride)| {
            (dim - 1).checked_mul(stride).and_then(|more| reach.checked_add(more))
        });
        let span = reach.and_then(|reach| reach.checked_add(1));
        let end = span.and_then(|span| span.checked_add(self.offset)).and_then(|end| end.checked_mul(self.size));
        let (Some(span), Some(_)) = (span, end.filter(|&end| end <= length)) else {
            return Err(format!("does not lie inside its storage of {length} bytes"));
        };
        if numel > span {
            return Err("is a view that overlaps itself".into());
        }
        Ok(numel * self.size)
    }

    /// The elements in row-major order, of a view that was checked.
    fn gather<'s>(&self, storage: &'s [u8]) -> Cow<'s, [u8]> {
        let numel: usize = self.dims.iter().product();
        if numel == 0 {
            return Cow::Borrowed(&[]);
        }
        // The innermost dimensions that lie as they are wanted go in one piece.
        let (mut run, mut outer) = (1, self.dims.len());
        while outer > 0 && (self.dims[outer - 1] == 1 || self.strides[outer - 1] == run) {
            outer -= 1;
            run *= self.dims[outer];
        }
        let piece = |at: usize| &storage[at * self.size..(at + run) * self.size];
        if outer == 0 {
            return Cow::Borrowed(piece(self.offset));
        }
        let mut out = Vec::with_capacity(numel * self.size);
        let (mut index, mut at) = (vec![0; outer], self.offset);
        loop {
            out.extend_from_slice(piece(at));
            let mut dim = outer;
            loop {
                if dim == 0 {
                    return Cow::Owned(out);
                }
                dim -= 1;
                index[dim] += 1;
                at += self.strides[dim];
                if index[dim] < self.dims[dim] {
                    break;
                }
                at -= self.strides[dim] * self.dims[dim];
                index[dim] = 0;
            }
        }
    }
}
