//! The descriptors of cuDNN's graph API: created, given attributes and finalized, and destroyed when they are dropped.

use std::{ffi::c_void, marker::PhantomData, ptr};

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name,
    cudnnBackendAttributeType_t::{self as Type, *},
    cudnnBackendDescriptor_t, cudnnBackendDescriptorType_t as Kind, cudnnBackendHeurMode_t, cudnnConvolutionMode_t,
    cudnnDataType_t, cudnnHandle_t, cudnnPointwiseMode_t, cudnnReduceTensorOp_t,
    cudnnStatus_t::CUDNN_STATUS_INTERNAL_ERROR,
};

use crate::libs::{Cudnn, Failed};

/// A value of an attribute, with its type.
///
/// # Safety
/// It has the layout of the library's type of that name.
pub(crate) unsafe trait Value: Copy {
    const TYPE: Type;
}

macro_rules! values {
    ($($ty:ty = $name:ident;)*) => {$(
        // SAFETY: as the header says of this type.
        unsafe impl Value for $ty {
            const TYPE: Type = $name;
        }
    )*};
}

values! {
    cudnnHandle_t = CUDNN_TYPE_HANDLE;
    cudnnDataType_t = CUDNN_TYPE_DATA_TYPE;
    bool = CUDNN_TYPE_BOOLEAN;
    i64 = CUDNN_TYPE_INT64;
    f32 = CUDNN_TYPE_FLOAT;
    f64 = CUDNN_TYPE_DOUBLE;
    *mut c_void = CUDNN_TYPE_VOID_PTR;
    cudnnConvolutionMode_t = CUDNN_TYPE_CONVOLUTION_MODE;
    cudnnBackendHeurMode_t = CUDNN_TYPE_HEUR_MODE;
    NumericalNote = CUDNN_TYPE_NUMERICAL_NOTE;
    cudnnPointwiseMode_t = CUDNN_TYPE_POINTWISE_MODE;
    Raw<'_> = CUDNN_TYPE_BACKEND_DESCRIPTOR;
    cudnnReduceTensorOp_t = CUDNN_TYPE_REDUCTION_OPERATOR_TYPE;
    BehaviorNote = CUDNN_TYPE_BEHAVIOR_NOTE;
    u8 = CUDNN_TYPE_CHAR;
}

/// A `cudnnBackendNumericalNote_t` that the library returns, which may be newer than the bindings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct NumericalNote(pub(crate) u32);

/// A `cudnnBackendBehaviorNote_t` that the library returns, likewise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct BehaviorNote(pub(crate) u32);

/// A descriptor as the library knows it, while we own it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Raw<'a>(pub(crate) cudnnBackendDescriptor_t, PhantomData<&'a Descriptor>);

/// A descriptor that we own. It keeps its own copies of other descriptors that it is given, so those may be destroyed
/// first.
pub(crate) struct Descriptor {
    pub(super) library: &'static Cudnn,
    raw: cudnnBackendDescriptor_t,
}

// SAFETY: the library's descriptors are not tied to a thread; `&Descriptor` only exposes the address.
unsafe impl Send for Descriptor {}
// SAFETY: as above.
unsafe impl Sync for Descriptor {}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and not used after this; queued work does not refer to it.
        unsafe { (self.library.destroy_descriptor)(self.raw) };
    }
}

impl Descriptor {
    pub(crate) fn new(library: &'static Cudnn, kind: Kind) -> Result<Descriptor, Failed> {
        let mut raw = ptr::null_mut();
        // SAFETY: writes the handle.
        let code = unsafe { (library.create_descriptor)(kind, &raw mut raw) };
        library.check("cudnnBackendCreateDescriptor", code)?;
        Ok(Descriptor { library, raw })
    }

    pub(crate) fn raw(&self) -> Raw<'_> {
        Raw(self.raw, PhantomData)
    }

    /// Sets an attribute to values, which the library copies.
    pub(crate) fn set<T: Value>(self, name: Name, values: &[T]) -> Result<Descriptor, Failed> {
        let (count, from) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: there are as many values of this type.
        let code = unsafe { (self.library.set_attribute)(self.raw, name, T::TYPE, count, from) };
        self.library.check("cudnnBackendSetAttribute", code)?;
        Ok(self)
    }

    pub(crate) fn finalize(self) -> Result<Descriptor, Failed> {
        // SAFETY: a descriptor of this library.
        let code = unsafe { (self.library.finalize)(self.raw) };
        self.library.check("cudnnBackendFinalize", code)?;
        Ok(self)
    }

    /// Reads as many values of an attribute as there is room for, and returns how many; without room, how many there
    /// are.
    fn read<T: Value>(&self, name: Name, room: &mut [T]) -> Result<usize, Failed> {
        let to = if room.is_empty() { ptr::null_mut() } else { room.as_mut_ptr().cast() };
        let (size, mut count) = (room.len() as i64, 0);
        // SAFETY: there is room for as many values of this type.
        let code = unsafe { (self.library.get_attribute)(self.raw, name, T::TYPE, size, &raw mut count, to) };
        self.library.check("cudnnBackendGetAttribute", code)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    pub(crate) fn count<T: Value>(&self, name: Name) -> Result<usize, Failed> {
        self.read::<T>(name, &mut [])
    }

    /// The values of an attribute, at most `most`.
    pub(crate) fn get<T: Value + Default>(&self, name: Name, most: usize) -> Result<Vec<T>, Failed> {
        let mut values = vec![T::default(); most];
        let count = self.read(name, &mut values)?;
        values.truncate(count);
        Ok(values)
    }

    pub(crate) fn number(&self, name: Name) -> Result<i64, Failed> {
        Ok(self.get(name, 1)?.first().copied().unwrap_or_default())
    }

    /// A text attribute.
    pub(crate) fn text(&self, name: Name) -> Result<Vec<u8>, Failed> {
        self.get(name, self.count::<u8>(name)?)
    }

    /// The descriptors of this kind in an attribute, at most `most`. The library copies its own.
    pub(crate) fn descriptors(&self, name: Name, kind: Kind, most: usize) -> Result<Vec<Descriptor>, Failed> {
        let copies = (0..most).map(|_| Descriptor::new(self.library, kind));
        let mut copies: Vec<Descriptor> = copies.collect::<Result<_, _>>()?;
        let count = self.read(name, &mut copies.iter().map(Descriptor::raw).collect::<Vec<_>>())?;
        copies.truncate(count);
        Ok(copies)
    }

    /// The descriptor in an attribute that has one.
    pub(crate) fn descriptor(&self, name: Name, kind: Kind) -> Result<Descriptor, Failed> {
        let call = "cudnnBackendGetAttribute";
        let missing = || Failed { call, code: CUDNN_STATUS_INTERNAL_ERROR as u32, said: String::new() };
        self.descriptors(name, kind, 1)?.pop().ok_or_else(missing)
    }
}
