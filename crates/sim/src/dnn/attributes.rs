//! Descriptors as the library keeps them: attributes are stored when they are set, and checked when the descriptor is
//! finalized. What is refused when, and with which status, was compared with cuDNN 9.26 (`tests/dnn_headers`).
use std::collections::BTreeMap;
use std::sync::Arc;

use super::status::{DnnStatus, Refusal, bad};

/// The type of an attribute's values (`cudnnBackendAttributeType_t`).
#[allow(missing_docs, reason = "the library's names for its types")]
pub mod types {
    pub const HANDLE: u32 = 0;
    pub const DATA_TYPE: u32 = 1;
    pub const BOOLEAN: u32 = 2;
    pub const INT64: u32 = 3;
    pub const FLOAT: u32 = 4;
    pub const DOUBLE: u32 = 5;
    pub const POINTER: u32 = 6;
    pub const CONVOLUTION_MODE: u32 = 7;
    pub const HEURISTIC_MODE: u32 = 8;
    pub const NUMERICAL_NOTE: u32 = 11;
    pub const POINTWISE_MODE: u32 = 14;
    pub const DESCRIPTOR: u32 = 15;
    pub const REDUCTION_OPERATOR_TYPE: u32 = 18;
    pub const BEHAVIOR_NOTE: u32 = 19;
    pub const CHAR: u32 = 24;

    /// Bytes of a value.
    pub fn bytes(kind: u32) -> usize {
        match kind {
            HANDLE | INT64 | DOUBLE | POINTER | DESCRIPTOR => 8,
            BOOLEAN | CHAR => 1,
            _ => 4,
        }
    }

    /// The number that a value is kept as: a float as the bits of an `f64`.
    pub fn decode(kind: u32, value: &[u8]) -> i64 {
        let mut bytes = [0; 8];
        bytes[..value.len()].copy_from_slice(value);
        let bits = u64::from_le_bytes(bytes);
        (if kind == FLOAT { f64::from(f32::from_bits(bits as u32)).to_bits() } else { bits }) as i64
    }

    /// The value, in its first bytes.
    pub fn encode(kind: u32, number: i64) -> [u8; 8] {
        let bits = number as u64;
        let single = || u64::from((f64::from_bits(bits) as f32).to_bits());
        (if kind == FLOAT { single() } else { bits }).to_le_bytes()
    }
}

/// An attribute: its name in the headers without `CUDNN_ATTR_`, its number, the type of its values, the kinds of
/// descriptors that they are, the maximum number of values, and whether the library sets it.
pub type Attribute = (&'static str, u32, u32, &'static [Kind], usize, bool);

/// Marks attributes that the library sets.
const MADE: bool = true;

macro_rules! kinds {
    ($($kind:ident = $number:literal $name:literal $title:literal [
        $($attribute:ident = $attribute_number:literal $type:ident $(($($part:ident)|+))? $most:literal $($made:ident)?,)*
    ])*) => {
        /// What a descriptor describes (`cudnnBackendDescriptorType_t`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Kind {
            $($kind = $number,)*
        }

        /// Every kind, with its name in the headers without `CUDNN_BACKEND_`, its name in messages, and its attributes.
        pub const KINDS: &[(Kind, &str, &str, &[Attribute])] = &[$(
            (Kind::$kind, $name, $title, &[$((
                stringify!($attribute),
                $attribute_number,
                types::$type,
                &[$($(Kind::$part),+)?],
                $most,
                false $(|| $made)?,
            ),)*]),
        )*];
    };
}

kinds! {
    Pointwise = 0 "POINTWISE_DESCRIPTOR" "pointwise descriptor" [
        POINTWISE_MODE = 0 POINTWISE_MODE 1,
        POINTWISE_MATH_PREC = 1 DATA_TYPE 1,
        POINTWISE_AXIS = 9 INT64 1,
    ]
    Convolution = 1 "CONVOLUTION_DESCRIPTOR" "convolution descriptor" [
        CONVOLUTION_COMP_TYPE = 100 DATA_TYPE 1,
        CONVOLUTION_CONV_MODE = 101 CONVOLUTION_MODE 1,
        CONVOLUTION_DILATIONS = 102 INT64 8,
        CONVOLUTION_FILTER_STRIDES = 103 INT64 8,
        CONVOLUTION_POST_PADDINGS = 104 INT64 8,
        CONVOLUTION_PRE_PADDINGS = 105 INT64 8,
        CONVOLUTION_SPATIAL_DIMS = 106 INT64 1,
    ]
    Engine = 2 "ENGINE_DESCRIPTOR" "engine descriptor" [
        ENGINE_OPERATION_GRAPH = 1300 DESCRIPTOR(Graph) 1,
        ENGINE_GLOBAL_INDEX = 1301 INT64 1,
        ENGINE_NUMERICAL_NOTE = 1303 NUMERICAL_NOTE 16 MADE,
        ENGINE_BEHAVIOR_NOTE = 1305 BEHAVIOR_NOTE 16 MADE,
        ENGINE_DEVICEPROP = 1307 DESCRIPTOR(DeviceProperties) 1,
    ]
    EngineConfig = 3 "ENGINECFG_DESCRIPTOR" "engine configuration" [
        ENGINECFG_ENGINE = 300 DESCRIPTOR(Engine) 1,
    ]
    Heuristic = 4 "ENGINEHEUR_DESCRIPTOR" "heuristic descriptor" [
        ENGINEHEUR_MODE = 200 HEURISTIC_MODE 1,
        ENGINEHEUR_OPERATION_GRAPH = 201 DESCRIPTOR(Graph) 1,
        ENGINEHEUR_RESULTS = 202 DESCRIPTOR(EngineConfig) 64 MADE,
        ENGINEHEUR_DEVICEPROP = 204 DESCRIPTOR(DeviceProperties) 1,
    ]
    Plan = 5 "EXECUTION_PLAN_DESCRIPTOR" "execution plan" [
        EXECUTION_PLAN_HANDLE = 400 HANDLE 1,
        EXECUTION_PLAN_ENGINE_CONFIG = 401 DESCRIPTOR(EngineConfig) 1,
        EXECUTION_PLAN_WORKSPACE_SIZE = 402 INT64 1 MADE,
        EXECUTION_PLAN_JSON_REPRESENTATION = 405 CHAR 16777216,
        EXECUTION_PLAN_DEVICEPROP = 407 DESCRIPTOR(DeviceProperties) 1,
    ]
    Forward = 10 "OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR" "convolution operation" [
        OPERATION_CONVOLUTION_FORWARD_ALPHA = 700 FLOAT 1,
        OPERATION_CONVOLUTION_FORWARD_BETA = 701 FLOAT 1,
        OPERATION_CONVOLUTION_FORWARD_CONV_DESC = 702 DESCRIPTOR(Convolution) 1,
        OPERATION_CONVOLUTION_FORWARD_W = 703 DESCRIPTOR(Tensor) 1,
        OPERATION_CONVOLUTION_FORWARD_X = 704 DESCRIPTOR(Tensor) 1,
        OPERATION_CONVOLUTION_FORWARD_Y = 705 DESCRIPTOR(Tensor) 1,
    ]
    BackwardFilter = 11 "OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR" "convolution operation" [
        OPERATION_CONVOLUTION_BWD_FILTER_ALPHA = 712 FLOAT 1,
        OPERATION_CONVOLUTION_BWD_FILTER_BETA = 713 FLOAT 1,
        OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC = 714 DESCRIPTOR(Convolution) 1,
        OPERATION_CONVOLUTION_BWD_FILTER_DW = 715 DESCRIPTOR(Tensor) 1,
        OPERATION_CONVOLUTION_BWD_FILTER_X = 716 DESCRIPTOR(Tensor) 1,
        OPERATION_CONVOLUTION_BWD_FILTER_DY = 717 DESCRIPTOR(Tensor) 1,
    ]
    BackwardData = 12 "OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR" "convolution operation" [
        OPERATION_CONVOLUTION_BWD_DATA_ALPHA = 706 FLOAT 1,
        OPERATION_CONVOLUTION_BWD_DATA_BETA = 707 FLOAT 1,
        OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC = 708 DESCRIPTOR(Convolution) 1,
        OPERATION_CONVOLUTION_BWD_DATA_W = 709 DESCRIPTOR(Tensor) 1,
        OPERATION_CONVOLUTION_BWD_DATA_DX = 710 DESCRIPTOR(Tensor) 1,
        OPERATION_CONVOLUTION_BWD_DATA_DY = 711 DESCRIPTOR(Tensor) 1,
    ]
    PointwiseOperation = 13 "OPERATION_POINTWISE_DESCRIPTOR" "pointwise operation" [
        OPERATION_POINTWISE_PW_DESCRIPTOR = 750 DESCRIPTOR(Pointwise) 1,
        OPERATION_POINTWISE_XDESC = 751 DESCRIPTOR(Tensor) 1,
        OPERATION_POINTWISE_BDESC = 752 DESCRIPTOR(Tensor) 1,
        OPERATION_POINTWISE_YDESC = 753 DESCRIPTOR(Tensor) 1,
        OPERATION_POINTWISE_DXDESC = 756 DESCRIPTOR(Tensor) 1,
        OPERATION_POINTWISE_DYDESC = 757 DESCRIPTOR(Tensor) 1,
        OPERATION_POINTWISE_TDESC = 758 DESCRIPTOR(Tensor) 1,
    ]
    Product = 18 "MATMUL_DESCRIPTOR" "product descriptor" [
        MATMUL_COMP_TYPE = 1500 DATA_TYPE 1,
    ]
    ProductOperation = 19 "OPERATION_MATMUL_DESCRIPTOR" "product operation" [
        OPERATION_MATMUL_ADESC = 1520 DESCRIPTOR(Tensor) 1,
        OPERATION_MATMUL_BDESC = 1521 DESCRIPTOR(Tensor) 1,
        OPERATION_MATMUL_CDESC = 1522 DESCRIPTOR(Tensor) 1,
        OPERATION_MATMUL_DESC = 1523 DESCRIPTOR(Product) 1,
    ]
    Reduction = 21 "REDUCTION_DESCRIPTOR" "reduction descriptor" [
        REDUCTION_OPERATOR = 1600 REDUCTION_OPERATOR_TYPE 1,
        REDUCTION_COMP_TYPE = 1601 DATA_TYPE 1,
    ]
    ReductionOperation = 22 "OPERATION_REDUCTION_DESCRIPTOR" "reduction operation" [
        OPERATION_REDUCTION_XDESC = 1610 DESCRIPTOR(Tensor) 1,
        OPERATION_REDUCTION_YDESC = 1611 DESCRIPTOR(Tensor) 1,
        OPERATION_REDUCTION_DESC = 1612 DESCRIPTOR(Reduction) 1,
    ]
    ReshapeOperation = 31 "OPERATION_RESHAPE_DESCRIPTOR" "reshape operation" [
        OPERATION_RESHAPE_XDESC = 2200 DESCRIPTOR(Tensor) 1,
        OPERATION_RESHAPE_YDESC = 2201 DESCRIPTOR(Tensor) 1,
    ]
    Graph = 15 "OPERATIONGRAPH_DESCRIPTOR" "operation graph" [
        OPERATIONGRAPH_HANDLE = 800 HANDLE 1,
        OPERATIONGRAPH_OPS = 801 DESCRIPTOR(
            Forward | BackwardFilter | BackwardData | PointwiseOperation | ReductionOperation | ProductOperation | ReshapeOperation
        ) 64,
        OPERATIONGRAPH_ENGINE_GLOBAL_COUNT = 802 INT64 1 MADE,
    ]
    VariantPack = 16 "VARIANT_PACK_DESCRIPTOR" "variant pack" [
        VARIANT_PACK_UNIQUE_IDS = 1000 INT64 64,
        VARIANT_PACK_DATA_POINTERS = 1001 POINTER 64,
        VARIANT_PACK_WORKSPACE = 1003 POINTER 1,
    ]
    Tensor = 17 "TENSOR_DESCRIPTOR" "tensor descriptor" [
        TENSOR_BYTE_ALIGNMENT = 900 INT64 1,
        TENSOR_DATA_TYPE = 901 DATA_TYPE 1,
        TENSOR_DIMENSIONS = 902 INT64 8,
        TENSOR_STRIDES = 903 INT64 8,
        TENSOR_UNIQUE_ID = 906 INT64 1,
        TENSOR_IS_VIRTUAL = 907 BOOLEAN 1,
        TENSOR_IS_BY_VALUE = 908 BOOLEAN 1,
    ]
    DeviceProperties = 38 "DEVICEPROP_DESCRIPTOR" "device properties" [
        DEVICEPROP_JSON_REPRESENTATION = 2702 CHAR 65536,
    ]
}

/// A descriptor: numbers (floats as the bits of an `f64`), and other descriptors in the state in which they were set.
#[derive(Clone, Debug)]
pub struct Record {
    pub kind: Kind,
    pub finalized: bool,
    numbers: BTreeMap<u32, Vec<i64>>,
    parts: BTreeMap<u32, Vec<Arc<Record>>>,
}

impl Kind {
    /// The names in the headers and in messages, and the attributes.
    pub fn row(self) -> &'static (Kind, &'static str, &'static str, &'static [Attribute]) {
        KINDS.iter().find(|(kind, ..)| *kind == self).unwrap_or(&KINDS[0])
    }
}

impl Record {
    pub fn new(kind: Kind) -> Record {
        Record { kind, finalized: false, numbers: BTreeMap::new(), parts: BTreeMap::new() }
    }

    /// A new descriptor of the kind with this number.
    pub fn of(number: u32) -> Option<Record> {
        KINDS.iter().find(|(kind, ..)| *kind as u32 == number).map(|(kind, ..)| Record::new(*kind))
    }

    pub fn row(&self, attribute: u32) -> Option<&'static Attribute> {
        self.kind.row().3.iter().find(|(_, number, ..)| *number == attribute)
    }

    /// The kinds of descriptors in this attribute.
    pub fn kinds_in(&self, attribute: u32) -> &'static [Kind] {
        self.row(attribute).map_or(&[], |(.., kinds, _, _)| kinds)
    }

    /// Checks whether this many values of this type may be set, and returns the number of values that the attribute
    /// will have.
    pub fn check_set(&self, attribute: u32, kind: u32, count: i64) -> Result<usize, Refusal> {
        if self.finalized {
            return Err(bad("the descriptor has been finalized"));
        }
        let Some(&(_, _, own, _, most, false)) = self.row(attribute) else {
            return Err(bad("the descriptor has no such attribute, or the library makes it"));
        };
        if kind != own && !(own == types::FLOAT && kind == types::DOUBLE) {
            let status = match (own, self.kind) {
                (types::FLOAT, Kind::BackwardData) => DnnStatus::NOT_SUPPORTED,
                (types::FLOAT, _) => DnnStatus::BAD_PARAM,
                _ => DnnStatus::BAD_ATTRIBUTE_TYPE,
            };
            return Err(Refusal(status, "the attribute's values are of another type"));
        }
        match usize::try_from(count) {
            Ok(count) if (1..=most).contains(&count) => Ok(count),
            _ => Err(bad("more or fewer values than the attribute takes")),
        }
    }

    /// Checks whether the attribute can be read into room for this many values, and returns how many values there are.
    pub fn check_get(&self, attribute: u32, kind: u32, room: i64) -> Result<usize, Refusal> {
        if !self.finalized {
            return Err(Refusal(DnnStatus::NOT_INITIALIZED, "the descriptor has not been finalized"));
        }
        let Some(&(_, _, own, _, most, _)) = self.row(attribute) else {
            return Err(bad("the descriptor has no such attribute"));
        };
        if kind != own {
            return Err(Refusal(DnnStatus::BAD_ATTRIBUTE_TYPE, "the attribute's values are of another type"));
        }
        if room < 0 || most == 1 && room != 1 {
            return Err(bad("no room for the values, or more than there are"));
        }
        Ok(self.numbers(attribute).len() + self.parts(attribute).len())
    }

    pub fn put(&mut self, attribute: u32, values: Vec<i64>) {
        self.numbers.insert(attribute, values);
    }

    pub fn put_parts(&mut self, attribute: u32, parts: Vec<Arc<Record>>) {
        self.parts.insert(attribute, parts);
    }

    pub fn numbers(&self, attribute: u32) -> &[i64] {
        self.numbers.get(&attribute).map_or(&[], Vec::as_slice)
    }

    pub fn number(&self, attribute: u32, default: i64) -> i64 {
        self.numbers(attribute).first().copied().unwrap_or(default)
    }

    pub fn float(&self, attribute: u32, default: f64) -> f64 {
        f64::from_bits(self.number(attribute, default.to_bits() as i64) as u64)
    }

    pub fn parts(&self, attribute: u32) -> &[Arc<Record>] {
        self.parts.get(&attribute).map_or(&[], Vec::as_slice)
    }

    /// A descriptor in this attribute that is set and was finalized before it was set.
    pub fn part(&self, attribute: u32) -> Result<&Record, Refusal> {
        let part = self.parts(attribute).first().filter(|part| part.finalized);
        part.map(Arc::as_ref).ok_or(bad("a descriptor is missing, or was not finalized"))
    }

    /// A number in a descriptor in this attribute, which need not be set.
    pub fn number_in(&self, part: u32, attribute: u32, default: i64) -> i64 {
        self.parts(part).first().map_or(default, |part| part.number(attribute, default))
    }

    /// A tensor's extents.
    pub fn dims(&self) -> &[i64] {
        self.numbers(902)
    }

    /// A tensor's unique number, if it has one.
    pub fn uid(&self) -> Option<i64> {
        self.numbers(906).first().copied()
    }

    /// Whether a tensor has no memory.
    pub fn is_virtual(&self) -> bool {
        self.number(907, 0) != 0
    }

    /// Whether a tensor is a number that the host holds when a plan is executed.
    pub fn is_by_value(&self) -> bool {
        self.number(908, 0) != 0
    }
}
