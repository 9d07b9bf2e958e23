//! NumPy arrays and scalars in pickles.

use std::borrow::Cow;

use crate::value::Value;

/// The classes and functions that pickles of NumPy arrays and scalars name, for `allowed` of [`load`](crate::load).
/// NumPy 2 renamed `core` to `_core`.
pub const NUMPY: &[(&str, &str)] = &[
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    // Old protocols encode bytes as text, and empty bytes as a call of `bytes`.
    ("_codecs", "encode"),
    ("__builtin__", "bytes"),
];

/// An array as the pickle stores it; a scalar is an array without dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumpyArray<'p> {
    /// The kind and the size in bytes of an element: `u1`, `i8`, `f4`, `b1`.
    pub dtype: Cow<'p, str>,
    /// Whether elements are big-endian.
    pub big_endian: bool,
    /// The extents.
    pub shape: Vec<usize>,
    /// Whether the layout is column-major (the first index changes fastest).
    pub fortran: bool,
    /// The bytes of the elements.
    pub bytes: Cow<'p, [u8]>,
}

impl<'p> Value<'p> {
    /// The array or scalar that this object is, if it is one and has as many bytes as its shape needs.
    #[must_use]
    pub fn numpy(self) -> Option<NumpyArray<'p>> {
        let ((module, name), arguments) = self.call()?;
        if !module.starts_with("numpy.") {
            return None;
        }
        let array = match (name, &arguments[..]) {
            ("_reconstruct", [..]) => {
                // (version, shape, dtype, fortran, data)
                let state: Vec<Value> = self.state()?.items()?.collect();
                let [_, shape, dtype, fortran, data] = state[..] else { return None };
                array(shape, dtype, fortran.bool()?, data)?
            }
            ("_frombuffer", &[data, dtype, shape, order]) => array(shape, dtype, order.text()? == "F", data)?,
            ("scalar", &[dtype, data]) => {
                let (dtype, big_endian) = element(dtype)?;
                NumpyArray { dtype, big_endian, shape: Vec::new(), fortran: false, bytes: data.bytes()? }
            }
            _ => return None,
        };
        let size: usize = array.dtype.get(1..)?.parse().ok()?;
        let bytes = array.shape.iter().try_fold(size, |n, &extent| n.checked_mul(extent))?;
        (bytes == array.bytes.len()).then_some(array)
    }
}

fn array<'p>(shape: Value<'p>, dtype: Value<'p>, fortran: bool, data: Value<'p>) -> Option<NumpyArray<'p>> {
    let shape = shape.items()?.map(Value::size).collect::<Option<Vec<usize>>>()?;
    let (dtype, big_endian) = element(dtype)?;
    Some(NumpyArray { dtype, big_endian, shape, fortran, bytes: data.bytes()? })
}

/// Kind and size, and whether the byte order is big-endian, of a `numpy.dtype`.
fn element(dtype: Value<'_>) -> Option<(Cow<'_, str>, bool)> {
    let (("numpy", "dtype"), arguments) = dtype.call()? else { return None };
    let name = arguments.first()?.text()?;
    // (version, byte order, …)
    let order = dtype.state().and_then(|state| state.items()?.nth(1)).and_then(Value::text);
    Some((name, order.is_some_and(|order| order == ">")))
}
