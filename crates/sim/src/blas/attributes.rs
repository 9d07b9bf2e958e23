//! Descriptors as the library keeps them: attributes by number, each with its size and default. As in the library,
//! setting accepts any value, and errors show when the descriptor is used.
use std::collections::BTreeMap;

use super::status::BlasStatus;

/// What a descriptor describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `cublasLtMatmulDesc_t`
    Operation,
    /// `cublasLtMatrixLayout_t`
    Layout,
    /// `cublasLtMatmulPreference_t`
    Preference,
}

/// An attribute from the library's headers: name, number, bytes, default.
pub type Attribute = (&'static str, i32, usize, i64);

macro_rules! attributes {
    ($($(#[$meta:meta])* $table:ident: $prefix:literal { $($name:ident = $number:literal, $bytes:literal, $default:literal;)* })*) => {$(
        $(#[$meta])*
        pub const $table: &[Attribute] = &[$((concat!($prefix, stringify!($name)), $number, $bytes, $default)),*];
    )*};
}

attributes! {
    /// The attributes of operations.
    OPERATION: "CUBLASLT_MATMUL_DESC_" {
        COMPUTE_TYPE = 0, 4, 0;
        SCALE_TYPE = 1, 4, 0;
        POINTER_MODE = 2, 4, 0;
        TRANSA = 3, 4, 0;
        TRANSB = 4, 4, 0;
        TRANSC = 5, 4, 0;
        FILL_MODE = 6, 4, 2;
        EPILOGUE = 7, 4, 1;
        BIAS_POINTER = 8, 8, 0;
        BIAS_BATCH_STRIDE = 10, 8, 0;
        EPILOGUE_AUX_POINTER = 11, 8, 0;
        EPILOGUE_AUX_LD = 12, 8, 0;
        EPILOGUE_AUX_BATCH_STRIDE = 13, 8, 0;
        ALPHA_VECTOR_BATCH_STRIDE = 14, 8, 0;
        SM_COUNT_TARGET = 15, 4, 0;
        A_SCALE_POINTER = 17, 8, 0;
        B_SCALE_POINTER = 18, 8, 0;
        C_SCALE_POINTER = 19, 8, 0;
        D_SCALE_POINTER = 20, 8, 0;
        AMAX_D_POINTER = 21, 8, 0;
        EPILOGUE_AUX_DATA_TYPE = 22, 4, -1;
        EPILOGUE_AUX_SCALE_POINTER = 23, 8, 0;
        EPILOGUE_AUX_AMAX_POINTER = 24, 8, 0;
        FAST_ACCUM = 25, 1, 0;
        BIAS_DATA_TYPE = 26, 4, -1;
    }
    /// The attributes of matrix layouts.
    LAYOUT: "CUBLASLT_MATRIX_LAYOUT_" {
        TYPE = 0, 4, 0;
        ORDER = 1, 4, 0;
        ROWS = 2, 8, 0;
        COLS = 3, 8, 0;
        LD = 4, 8, 0;
        BATCH_COUNT = 5, 4, 1;
        STRIDED_BATCH_OFFSET = 6, 8, 0;
        PLANE_OFFSET = 7, 8, 0;
    }
    /// The attributes of preferences.
    PREFERENCE: "CUBLASLT_MATMUL_PREF_" {
        SEARCH_MODE = 0, 4, 0;
        MAX_WORKSPACE_BYTES = 1, 8, 0;
        REDUCTION_SCHEME_MASK = 3, 4, 7;
        MIN_ALIGNMENT_A_BYTES = 5, 4, 256;
        MIN_ALIGNMENT_B_BYTES = 6, 4, 256;
        MIN_ALIGNMENT_C_BYTES = 7, 4, 256;
        MIN_ALIGNMENT_D_BYTES = 8, 4, 256;
        MAX_WAVES_COUNT = 9, 4, 0;
        IMPL_MASK = 12, 8, -1;
    }
}

impl Kind {
    /// The attributes of this kind.
    #[must_use]
    pub fn table(self) -> &'static [Attribute] {
        match self {
            Kind::Operation => OPERATION,
            Kind::Layout => LAYOUT,
            Kind::Preference => PREFERENCE,
        }
    }

    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Operation => "matmul descriptor",
            Kind::Layout => "matrix layout",
            Kind::Preference => "matmul preference",
        }
    }
}

/// A descriptor.
#[derive(Clone, Debug)]
pub struct Record {
    pub kind: Kind,
    /// The values that have been set; the others are the table's defaults.
    values: BTreeMap<i32, i64>,
}

impl Record {
    pub fn new(kind: Kind) -> Record {
        Record { kind, values: BTreeMap::new() }
    }

    fn row(&self, attribute: i32) -> Option<&'static Attribute> {
        self.kind.table().iter().find(|(_, number, ..)| *number == attribute)
    }

    /// The size of an attribute in bytes.
    pub fn bytes(&self, attribute: i32) -> Option<usize> {
        self.row(attribute).map(|(_, _, bytes, _)| *bytes)
    }

    /// The value, sign-extended.
    pub fn get(&self, attribute: i32) -> i64 {
        let default = self.row(attribute).map_or(0, |(.., default)| *default);
        self.values.get(&attribute).copied().unwrap_or(default)
    }

    /// Sets an attribute to a value of as many bytes as are given.
    pub fn set(&mut self, attribute: i32, value: &[u8]) -> Result<(), BlasStatus> {
        if self.bytes(attribute) != Some(value.len()) {
            return Err(BlasStatus::INVALID_VALUE);
        }
        let fill = if value.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut bytes = [fill; 8];
        bytes[..value.len()].copy_from_slice(value);
        self.values.insert(attribute, i64::from_le_bytes(bytes));
        Ok(())
    }

    /// Sets a value that the library writes itself.
    pub fn put(&mut self, attribute: i32, value: i64) {
        self.values.insert(attribute, value);
    }
}
