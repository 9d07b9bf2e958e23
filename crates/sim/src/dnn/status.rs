//! The status codes of cuDNN, and the reasons for refusing a call.
/// A `cudnnStatus_t`.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DnnStatus(pub u32);

#[allow(missing_docs, reason = "the library's names for its statuses")]
impl DnnStatus {
    pub const SUCCESS: DnnStatus = DnnStatus(0);
    pub const NOT_INITIALIZED: DnnStatus = DnnStatus(1001);
    pub const VERSION_MISMATCH: DnnStatus = DnnStatus(1002);
    pub const SERIALIZATION_MISMATCH: DnnStatus = DnnStatus(1003);
    pub const BAD_PARAM: DnnStatus = DnnStatus(2000);
    pub const NULL_POINTER: DnnStatus = DnnStatus(2002);
    pub const MISALIGNED_POINTER: DnnStatus = DnnStatus(2003);
    pub const NOT_FINALIZED: DnnStatus = DnnStatus(2004);
    pub const BAD_ATTRIBUTE_TYPE: DnnStatus = DnnStatus(2010);
    pub const NOT_SUPPORTED: DnnStatus = DnnStatus(3000);
    pub const ARCH_MISMATCH: DnnStatus = DnnStatus(3007);
    /// For a descriptor kind that does not exist.
    pub const ALLOC_FAILED: DnnStatus = DnnStatus(4003);
    /// The library found no device memory for itself.
    pub const DEVICE_ALLOCATION_FAILED: DnnStatus = DnnStatus(4004);
    pub const EXECUTION_FAILED: DnnStatus = DnnStatus(5000);
}

/// Why the library would refuse something.
#[derive(Clone, Copy, Debug)]
pub struct Refusal(pub DnnStatus, pub &'static str);

pub const fn bad(why: &'static str) -> Refusal {
    Refusal(DnnStatus::BAD_PARAM, why)
}

pub const fn unsupported(why: &'static str) -> Refusal {
    Refusal(DnnStatus::NOT_SUPPORTED, why)
}
