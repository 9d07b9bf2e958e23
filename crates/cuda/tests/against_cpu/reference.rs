//! Reference results: a case computed in `f64` on the CPU, from the numbers that the device gets or their magnitudes.

use std::cell::Cell;

use kiln_backend::*;

/// What a case computes when it is run on the CPU: everything of floats is `f64` then, and holds the numbers that the device
/// gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reference {
    Exact,
    /// From the absolute values: of a sum of products `Σ x·w` that is `Σ |x·w|`.
    Magnitudes,
}

thread_local! {
    static REFERENCE: Cell<Option<Reference>> = const { Cell::new(None) };
}

/// Sets what is computed from now on by this thread; `None` for the case itself.
pub fn set_reference(reference: Option<Reference>) {
    REFERENCE.set(reference);
}

/// What takes the place of `values` in a reference.
pub fn for_reference(dtype: DType, values: &HostVec) -> Option<HostVec> {
    let reference = REFERENCE.get().filter(|_| dtype.is_float())?;
    let wide: Vec<f64> = match values {
        HostVec::F32(values) => values.iter().map(|&v| f64::from(v)).collect(),
        HostVec::F64(values) => values.clone(),
        HostVec::F16(values) => values.iter().map(|v| v.to_f64()).collect(),
        HostVec::BF16(values) => values.iter().map(|v| v.to_f64()).collect(),
        _ => return None,
    };
    let of = |v: f64| if reference == Reference::Magnitudes { v.abs() } else { v };
    Some(HostVec::F64(wide.into_iter().map(of).collect()))
}
