//! PyTorch's element types: their names, storage classes, and the corresponding Kiln dtypes.

use kiln_tensor::DType;

/// An element type of PyTorch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TorchType {
    /// Without the `torch.` prefix.
    pub name: &'static str,
    /// The class of its typed storages, if there is one.
    storage: &'static str,
    /// Bytes per element.
    pub size: usize,
}

impl TorchType {
    /// The Kiln dtype, if there is one.
    pub fn dtype(&self) -> Option<DType> {
        DType::ALL.into_iter().find(|dtype| dtype.torch_name() == self.name)
    }
}

macro_rules! types {
    ($($name:literal $storage:literal $size:literal;)*) => {
        static TYPES: &[TorchType] = &[$(TorchType { name: $name, storage: $storage, size: $size },)*];
    };
}
types! {
    "float32" "FloatStorage" 4;
    "float64" "DoubleStorage" 8;
    "float16" "HalfStorage" 2;
    "bfloat16" "BFloat16Storage" 2;
    "int64" "LongStorage" 8;
    "int32" "IntStorage" 4;
    "int16" "ShortStorage" 2;
    "int8" "CharStorage" 1;
    "uint8" "ByteStorage" 1;
    "bool" "BoolStorage" 1;
    "complex64" "ComplexFloatStorage" 8;
    "complex128" "ComplexDoubleStorage" 16;
    "qint8" "QInt8Storage" 1;
    "quint8" "QUInt8Storage" 1;
    "qint32" "QInt32Storage" 4;
    "quint4x2" "QUInt4x2Storage" 1;
    "quint2x4" "QUInt2x4Storage" 1;
    "uint16" "" 2;
    "uint32" "" 4;
    "uint64" "" 8;
    "complex32" "" 4;
    "float8_e4m3fn" "" 1;
    "float8_e4m3fnuz" "" 1;
    "float8_e5m2" "" 1;
    "float8_e5m2fnuz" "" 1;
}

/// The element type of a typed storage class.
pub(super) fn of_storage((module, name): (&str, &str)) -> Option<&'static TorchType> {
    let typed = !name.is_empty() && matches!(module, "torch" | "torch.cuda");
    TYPES.iter().find(|t| typed && t.storage == name)
}

/// Whether a class is an untyped storage (of bytes), whose tensors state their dtype.
pub(super) fn is_untyped(global: (&str, &str)) -> bool {
    matches!(global, ("torch.storage" | "torch" | "torch.cuda", "UntypedStorage"))
}

/// The element type of a dtype such as `torch.float32`.
pub(super) fn of_dtype((module, name): (&str, &str)) -> Option<&'static TorchType> {
    TYPES.iter().find(|t| module == "torch" && t.name == name)
}
