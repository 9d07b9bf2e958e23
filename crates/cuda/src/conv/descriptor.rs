//! The descriptors of cuDNN's graph API: created, given attributes and finalized, and destroyed when they are dropped.
//! Numbers are those of `cudnn_graph.h`.

use std::{
    ffi::{c_uint, c_void},
    fmt, ptr,
};

use cudarc::cudnn::sys::{cudnnBackendDescriptor_t, cudnnHandle_t};

use crate::libs::{Cudnn, dnn_status_name as status_name};

/// A failed call: the function, its status, and the library's message.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) call: &'static str,
    pub(crate) code: u32,
    pub(crate) said: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} returned {}", self.call, status_name(self.code))?;
        if self.said.is_empty() { Ok(()) } else { write!(f, ": {}", self.said) }
    }
}

/// Turns a status into a result.
pub(crate) fn check(library: &Cudnn, call: &'static str, code: u32) -> Result<(), Failed> {
    if code == 0 { Ok(()) } else { Err(Failed { call, code, said: library.last_error() }) }
}

/// What a descriptor describes (`cudnnBackendDescriptorType_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Pointwise = 0,
    Convolution = 1,
    Engine = 2,
    EngineConfig = 3,
    Heuristic = 4,
    Plan = 5,
    ConvolutionForward = 10,
    ConvolutionBackwardFilter = 11,
    ConvolutionBackwardData = 12,
    PointwiseOperation = 13,
    OperationGraph = 15,
    VariantPack = 16,
    Tensor = 17,
    Reduction = 21,
    ReductionOperation = 22,
    /// Since cuDNN 9.8.
    DeviceProperties = 38,
}

/// Names of attributes (`cudnnBackendAttributeName_t`).
pub(crate) mod attribute {
    pub(crate) const POINTWISE_MODE: u32 = 0;
    pub(crate) const POINTWISE_MATH_PREC: u32 = 1;
    pub(crate) const CONVOLUTION_COMP_TYPE: u32 = 100;
    pub(crate) const CONVOLUTION_CONV_MODE: u32 = 101;
    pub(crate) const CONVOLUTION_DILATIONS: u32 = 102;
    pub(crate) const CONVOLUTION_FILTER_STRIDES: u32 = 103;
    pub(crate) const CONVOLUTION_POST_PADDINGS: u32 = 104;
    pub(crate) const CONVOLUTION_PRE_PADDINGS: u32 = 105;
    pub(crate) const CONVOLUTION_SPATIAL_DIMS: u32 = 106;
    pub(crate) const HEURISTIC_MODE: u32 = 200;
    pub(crate) const HEURISTIC_OPERATION_GRAPH: u32 = 201;
    pub(crate) const HEURISTIC_RESULTS: u32 = 202;
    pub(crate) const HEURISTIC_DEVICE_PROPERTIES: u32 = 204;
    pub(crate) const ENGINE_CONFIG_ENGINE: u32 = 300;
    pub(crate) const PLAN_HANDLE: u32 = 400;
    pub(crate) const PLAN_ENGINE_CONFIG: u32 = 401;
    pub(crate) const PLAN_WORKSPACE_SIZE: u32 = 402;
    pub(crate) const PLAN_JSON: u32 = 405;
    pub(crate) const PLAN_DEVICE_PROPERTIES: u32 = 407;
    pub(crate) const OPERATION_POINTWISE: u32 = 750;
    pub(crate) const OPERATION_POINTWISE_X: u32 = 751;
    pub(crate) const OPERATION_POINTWISE_B: u32 = 752;
    pub(crate) const OPERATION_POINTWISE_Y: u32 = 753;
    pub(crate) const OPERATION_POINTWISE_DX: u32 = 756;
    pub(crate) const OPERATION_POINTWISE_DY: u32 = 757;
    pub(crate) const GRAPH_HANDLE: u32 = 800;
    pub(crate) const GRAPH_OPERATIONS: u32 = 801;
    pub(crate) const TENSOR_BYTE_ALIGNMENT: u32 = 900;
    pub(crate) const TENSOR_DATA_TYPE: u32 = 901;
    pub(crate) const TENSOR_DIMENSIONS: u32 = 902;
    pub(crate) const TENSOR_STRIDES: u32 = 903;
    pub(crate) const TENSOR_UNIQUE_ID: u32 = 906;
    pub(crate) const TENSOR_IS_VIRTUAL: u32 = 907;
    pub(crate) const PACK_UNIQUE_IDS: u32 = 1000;
    pub(crate) const PACK_DATA_POINTERS: u32 = 1001;
    pub(crate) const PACK_WORKSPACE: u32 = 1003;
    pub(crate) const ENGINE_GLOBAL_INDEX: u32 = 1301;
    pub(crate) const ENGINE_NUMERICAL_NOTE: u32 = 1303;
    pub(crate) const ENGINE_BEHAVIOR_NOTE: u32 = 1305;
    pub(crate) const REDUCTION_OPERATOR: u32 = 1600;
    pub(crate) const REDUCTION_COMP_TYPE: u32 = 1601;
    pub(crate) const OPERATION_REDUCTION_X: u32 = 1610;
    pub(crate) const OPERATION_REDUCTION_Y: u32 = 1611;
    pub(crate) const OPERATION_REDUCTION: u32 = 1612;
    pub(crate) const DEVICE_PROPERTIES_JSON: u32 = 2702;
}

/// A value of an attribute, with the number of its type (`cudnnBackendAttributeType_t`).
///
/// # Safety
/// The type has the layout of the library's type of that number.
pub(crate) unsafe trait Value: Copy {
    const TYPE: c_uint;
}

macro_rules! values {
    ($($ty:ty = $number:literal;)*) => {$(
        // SAFETY: as the header says of the type with this number.
        unsafe impl Value for $ty {
            const TYPE: c_uint = $number;
        }
    )*};
}

/// Numbers of one of the library's enums.
macro_rules! enums {
    ($($(#[$meta:meta])* $name:ident { $($constant:ident = $value:literal,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(transparent)]
        pub(crate) struct $name(pub(crate) u32);

        impl $name {
            $(pub(crate) const $constant: $name = $name($value);)*
        }
    )*};
}

enums! {
    /// `cudnnDataType_t`
    DataType { FLOAT = 0, DOUBLE = 1, HALF = 2, BFLOAT16 = 9, }
    /// `cudnnConvolutionMode_t`
    ConvolutionMode { CROSS_CORRELATION = 1, }
    /// `cudnnBackendHeurMode_t`
    HeuristicMode { A = 3, FALLBACK = 2, }
    /// `cudnnPointwiseMode_t`
    PointwiseMode { ADD = 0, RELU_FWD = 100, RELU_BWD = 200, }
    /// `cudnnReduceTensorOp_t`
    ReductionOperator { ADD = 0, }
    /// `cudnnBackendNumericalNote_t`
    NumericalNote {
        TENSOR_CORE = 0,
        DOWN_CONVERT_INPUTS = 1,
        REDUCED_PRECISION_REDUCTION = 2,
        NONDETERMINISTIC = 4,
    }
    /// `cudnnBackendBehaviorNote_t`
    BehaviorNote { RUNTIME_COMPILATION = 0, }
}

values! {
    cudnnHandle_t = 0;
    DataType = 1;
    bool = 2;
    i64 = 3;
    f32 = 4;
    f64 = 5;
    *mut c_void = 6;
    ConvolutionMode = 7;
    HeuristicMode = 8;
    NumericalNote = 11;
    PointwiseMode = 14;
    ReductionOperator = 18;
    BehaviorNote = 19;
    u8 = 24;
}

/// The type number of descriptors, whose handles are ordinary pointers.
const DESCRIPTOR: c_uint = 15;

/// A descriptor that we own. It keeps its own copies of other descriptors that it is given, so those may be destroyed
/// first.
pub(crate) struct Descriptor {
    library: &'static Cudnn,
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
        let code = unsafe { (library.create_descriptor)(kind as c_uint, &raw mut raw) };
        check(library, "cudnnBackendCreateDescriptor", code)?;
        Ok(Descriptor { library, raw })
    }

    pub(crate) fn raw(&self) -> cudnnBackendDescriptor_t {
        self.raw
    }

    fn put(self, name: u32, kind: c_uint, count: usize, values: *const c_void) -> Result<Descriptor, Failed> {
        // SAFETY: the caller has as many values of this type, which the library copies.
        let code = unsafe { (self.library.set_attribute)(self.raw, name, kind, count as i64, values) };
        check(self.library, "cudnnBackendSetAttribute", code)?;
        Ok(self)
    }

    pub(crate) fn set<T: Value>(self, name: u32, values: &[T]) -> Result<Descriptor, Failed> {
        self.put(name, T::TYPE, values.len(), values.as_ptr().cast())
    }

    pub(crate) fn set_descriptors(self, name: u32, values: &[&Descriptor]) -> Result<Descriptor, Failed> {
        let raw: Vec<_> = values.iter().map(|desc| desc.raw).collect();
        self.put(name, DESCRIPTOR, raw.len(), raw.as_ptr().cast())
    }

    pub(crate) fn finalize(self) -> Result<Descriptor, Failed> {
        // SAFETY: a descriptor of this library.
        let code = unsafe { (self.library.finalize)(self.raw) };
        check(self.library, "cudnnBackendFinalize", code)?;
        Ok(self)
    }

    /// Writes at most `count` values to `to`, which has room for them. Returns how many the library says there are.
    fn fetch(&self, name: u32, kind: c_uint, count: usize, to: *mut c_void) -> Result<usize, Failed> {
        let mut returned = 0;
        // SAFETY: the caller has room for as many values of this type.
        let code = unsafe { (self.library.get_attribute)(self.raw, name, kind, count as i64, &raw mut returned, to) };
        check(self.library, "cudnnBackendGetAttribute", code)?;
        Ok(usize::try_from(returned).unwrap_or(0))
    }

    /// The values of an attribute, at most `room.len()`.
    pub(crate) fn get<'a, T: Value>(&self, name: u32, room: &'a mut [T]) -> Result<&'a [T], Failed> {
        let count = self.fetch(name, T::TYPE, room.len(), room.as_mut_ptr().cast())?.min(room.len());
        Ok(&room[..count])
    }

    /// The maximal number of descriptors in an attribute.
    pub(crate) fn count(&self, name: u32) -> Result<usize, Failed> {
        self.fetch(name, DESCRIPTOR, 0, ptr::null_mut())
    }

    /// A text attribute.
    pub(crate) fn text(&self, name: u32) -> Result<Vec<u8>, Failed> {
        let mut text = vec![0; self.fetch(name, u8::TYPE, 0, ptr::null_mut())?];
        let length = self.get(name, &mut text)?.len();
        text.truncate(length);
        Ok(text)
    }

    pub(crate) fn number(&self, name: u32) -> Result<i64, Failed> {
        let mut value = [0];
        self.get(name, &mut value)?;
        Ok(value[0])
    }

    /// At most `most` descriptors of this kind, into which the library copies its own.
    pub(crate) fn descriptors(&self, name: u32, kind: Kind, most: usize) -> Result<Vec<Descriptor>, Failed> {
        let mut all = Vec::with_capacity(most);
        for _ in 0..most {
            all.push(Descriptor::new(self.library, kind)?);
        }
        let mut raw: Vec<_> = all.iter().map(|desc: &Descriptor| desc.raw).collect();
        all.truncate(self.fetch(name, DESCRIPTOR, most, raw.as_mut_ptr().cast())?);
        Ok(all)
    }
}
