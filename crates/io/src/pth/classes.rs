//! The classes and functions that a file of `torch.save` may name, and what PyTorch's element types are to Kiln.

use kiln_tensor::DType;

/// An element type of PyTorch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TorchType {
    /// Without the `torch.` in front.
    pub name: &'static str,
    /// The class of typed storages, if there is one.
    storage: &'static str,
    /// Bytes an element.
    pub size: usize,
}

impl TorchType {
    /// Kiln's element type, if it has this one.
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
    "uint16" "" 2;
    "uint32" "" 4;
    "uint64" "" 8;
    "complex32" "" 4;
    "float8_e4m3fn" "" 1;
    "float8_e4m3fnuz" "" 1;
    "float8_e5m2" "" 1;
    "float8_e5m2fnuz" "" 1;
}

/// What a typed storage holds.
pub(super) fn of_storage((module, name): (&str, &str)) -> Option<&'static TorchType> {
    let typed = !name.is_empty() && matches!(module, "torch" | "torch.cuda");
    TYPES.iter().find(|t| typed && t.storage == name)
}

/// Whether it is a storage of bytes, whose tensors say their type.
pub(super) fn is_untyped(global: (&str, &str)) -> bool {
    matches!(global, ("torch.storage" | "torch" | "torch.cuda", "UntypedStorage"))
}

/// `torch.float32` and the like.
pub(super) fn of_dtype((module, name): (&str, &str)) -> Option<&'static TorchType> {
    TYPES.iter().find(|t| module == "torch" && t.name == name)
}

const OTHERS: &[(&str, &[&str])] = &[
    ("collections", &["OrderedDict", "Counter", "defaultdict"]),
    ("torch", &["Size", "device", "Tensor"]),
    ("torch._tensor", &["_rebuild_from_type_v2"]),
    (
        "torch._utils",
        &[
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
        ],
    ),
    ("torch.nn.parameter", &["Parameter", "Buffer"]),
    // Of default dicts, and collections as old protocols write them.
    ("builtins", &["set", "frozenset", "bytearray", "bytes", "dict", "list", "int", "float"]),
    ("__builtin__", &["set", "frozenset", "bytearray", "bytes", "dict", "list", "int", "float"]),
];

pub(super) fn allowed(module: &str, name: &str) -> bool {
    OTHERS.iter().any(|(m, names)| *m == module && names.contains(&name))
        || kiln_pickle::NUMPY.contains(&(module, name))
        || of_storage((module, name)).is_some()
        || of_dtype((module, name)).is_some()
        || is_untyped((module, name))
}
