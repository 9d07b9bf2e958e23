//! Loads tensors of a `torch.save` file: each is read from its storage straight into its own memory.

use std::collections::{HashMap, HashSet};

use kiln_tensor::{Error, Result, Shape, Tensor};

use super::{
    archive::{Archive, Storage},
    value::PthTensor,
    view::View,
};
use crate::{
    budget::{self, Budget},
    load_options::LoadOptions,
    source::Source,
};

/// How many times its length is read of a file in which many tensors are views of one storage; as much as the memory
/// limit may be read in addition. PyTorch's own files need at most 2.
const MAX_READS: usize = 64;

/// Loads tensors of one file.
pub(super) struct Reading<'a> {
    source: &'a Source,
    archive: &'a Archive,
    options: &'a LoadOptions,
    budget: Budget,
    /// Loaded tensors, to be shared with others that are the same part of a storage.
    loaded: HashMap<Part<'a>, Tensor>,
    /// Storages whose checksum has been verified.
    verified: HashSet<&'a str>,
    /// The storage that was last read as a whole.
    whole: Option<(&'a str, Vec<u8>)>,
    /// How many more bytes may be read.
    reads: usize,
}

/// Storage, dtype, offset, extents and strides.
type Part<'a> = (&'a str, &'static str, usize, Vec<usize>, Vec<usize>);

impl<'a> Reading<'a> {
    pub fn new(source: &'a Source, archive: &'a Archive, options: &'a LoadOptions, budget: Budget) -> Reading<'a> {
        let reads = source.len().saturating_mul(MAX_READS).saturating_add(budget.left());
        Reading {
            source,
            archive,
            options,
            budget,
            loaded: HashMap::new(),
            verified: HashSet::new(),
            whole: None,
            reads,
        }
    }

    pub fn tensor(&mut self, name: &str, tensor: &PthTensor) -> Result<Tensor> {
        let source = self.source;
        let wrong = |message: String| Error::file(source.path(), format!("tensor {name:?} {message}"));
        let place = tensor.place();
        let kind = place.kind;
        let dtype = kind.dtype();
        let dtype = dtype.ok_or_else(|| wrong(format!("has dtype torch.{}, which Kiln does not have", kind.name)))?;
        let shape = Shape::new(&place.dims).map_err(|e| wrong(e.to_string()))?;
        let found = self.archive.storages.get_key_value(place.storage.as_str());
        let (key, storage) =
            found.ok_or_else(|| wrong(format!("lies in storage {:?}, which the file does not have", place.storage)))?;

        // Only one element is loaded of a broadcast dimension.
        let (mut dims, mut strides) = (place.dims.clone(), place.strides.clone());
        for (dim, stride) in dims.iter_mut().zip(&mut strides) {
            if *dim > 1 && *stride == 0 {
                *dim = 1;
            }
            if *dim == 1 {
                *stride = 0;
            }
        }
        self.budget.spend(budget::TENSOR)?;
        let part = (key.as_str(), kind.name, place.offset, dims, strides);
        if let Some(same) = self.loaded.get(&part) {
            return expanded(same.detach(), &shape);
        }
        let (.., dims, strides) = &part;
        let view = View { dims, strides, offset: place.offset, size: kind.size };
        let bytes = view.check(storage.len()).map_err(wrong)?;
        let stored_shape = Shape::new(dims).map_err(|e| wrong(e.to_string()))?;
        self.budget.spend(self.options.size_of(dtype, stored_shape.numel()))?;
        let big_endian = self.archive.big_endian;
        let loaded = source.tensor(dtype, stored_shape, self.options.device(), |out| {
            if bytes > 0 {
                self.fill(name, key, storage, &view, out)?;
            }
            if big_endian {
                out.chunks_exact_mut(kind.size).for_each(<[u8]>::reverse);
            }
            Ok(())
        })?;
        let loaded = self.options.converted(loaded)?;
        self.budget.insert(&mut self.loaded, part, loaded.clone())?;
        expanded(loaded, &shape)
    }

    /// Reads the elements of a view that was checked.
    fn fill(&mut self, name: &str, key: &'a str, storage: &Storage, view: &View<'_>, out: &mut [u8]) -> Result<()> {
        let source = self.source;
        let wrong =
            |message: String| Error::file(source.path(), format!("tensor {name:?} lies in storage {key:?}: {message}"));
        if let Some((_, whole)) = self.whole.as_ref().filter(|(whole, _)| *whole == key) {
            view.gather(whole, 0, out);
            return Ok(());
        }
        let start = storage.start(source)?;
        let span = view.span();
        let unverified = storage.crc().filter(|_| !self.verified.contains(key));
        let damaged = || wrong("its values do not match their checksum".into());
        let mut count = |bytes: usize| -> Result<()> {
            let left = self.reads.checked_sub(bytes);
            self.reads = left.ok_or_else(|| wrong("it is one of too many views of one storage".into()))?;
            Ok(())
        };
        match unverified {
            // The view is the whole storage in its order, so it is read directly into the tensor.
            Some(crc) if view.is_contiguous() && out.len() == storage.len() => {
                count(out.len())?;
                source.read_into(start, out)?;
                if crc32fast::hash(out) != crc {
                    return Err(damaged());
                }
            }
            Some(crc) => {
                count(storage.len())?;
                if let Some((_, old)) = self.whole.take() {
                    self.budget.give_back(old.len());
                }
                self.budget.spend(storage.len())?;
                let whole = source.read(start, storage.len())?;
                if crc32fast::hash(&whole) != crc {
                    return Err(damaged());
                }
                view.gather(&whole, 0, out);
                self.whole = Some((key, whole));
            }
            None if view.is_contiguous() => {
                count(out.len())?;
                source.read_into(start + span.start, out)?;
            }
            None => {
                count(span.len())?;
                self.budget.spend(span.len())?;
                view.gather(&source.read(start + span.start, span.len())?, span.start, out);
                self.budget.give_back(span.len());
            }
        }
        self.budget.remember(&mut self.verified, key)?;
        Ok(())
    }
}

fn expanded(tensor: Tensor, shape: &Shape) -> Result<Tensor> {
    if tensor.shape() == shape { Ok(tensor) } else { kiln_tensor::no_grad(|| tensor.expand(shape)) }
}
