//! Typed kernel launches: a wrong number or size of arguments does not compile.
//!
//! The build script generates one [`Family`] for each `FAMILY(…)` line of `kernels/*.cu`. A family finds a
//! [`Kernel`] by operation and dtype, without allocating; the kernel takes a tuple of arguments, each of the size that
//! the kernel declares.

use std::{ffi::c_void, io, marker::PhantomData};

use kiln_backend::DType;

use crate::params;

/// One compiled kernel.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// The stem of its file, and so of the [`Image`]s that contain it.
    pub file: &'static str,
    /// The sizes of its parameters in bytes.
    pub sizes: &'static [usize],
}

/// The format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Machine code, for devices of the same major version as its architecture and no lower minor version.
    Sass,
    /// Assembly text that the driver compiles, for devices of its architecture and all later ones.
    Ptx,
}

/// One file of kernels, compiled for one architecture.
#[derive(Debug)]
pub struct Image {
    /// The stem of the file.
    pub file: &'static str,
    /// The format.
    pub code: Code,
    /// The compute capability, 75 for 7.5.
    pub capability: u32,
    /// The length before compression, in bytes.
    pub len: usize,
    /// The contents, compressed with deflate.
    pub compressed: &'static [u8],
}

impl Image {
    /// The image as the driver takes it: an ELF file, or text that ends with a zero.
    ///
    /// # Errors
    /// If the program's copy is damaged.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.len + 1);
        inflate(self.compressed, &mut bytes)?;
        if bytes.len() != self.len {
            return Err(io::Error::other(format!("{} bytes in the place of {}", bytes.len(), self.len)));
        }
        if self.code == Code::Ptx {
            bytes.push(0);
        }
        Ok(bytes)
    }
}

#[cfg(feature = "kernels")]
fn inflate(compressed: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
    io::Read::read_to_end(&mut flate2::read::DeflateDecoder::new(compressed), into).map(|_| ())
}

/// Without kernels there are no images to inflate.
#[cfg(not(feature = "kernels"))]
fn inflate(_compressed: &[u8], _into: &mut Vec<u8>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A parameter of 8 bytes: an address, or an integer.
#[derive(Debug)]
pub struct Arg64;
/// A parameter of 4 bytes.
#[derive(Debug)]
pub struct Arg32;
/// A parameter of type `double`.
#[derive(Debug)]
pub struct ArgF64;
/// A struct of this many bytes.
#[derive(Debug)]
pub struct ArgBytes<const SIZE: usize>;

const NONE: u16 = u16::MAX;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Something that a kernel can take by value.
///
/// # Safety
/// `Kind` has the size and alignment of `Self`, and the kernel accepts every bit pattern that `Self` can hold.
pub unsafe trait Argument {
    /// The kernel parameter that it is passed to.
    type Kind;
}

macro_rules! arguments {
    ($($ty:ty => $kind:ty;)*) => {$(
        // SAFETY: plain numbers of the size that the kind stands for.
        unsafe impl Argument for $ty {
            type Kind = $kind;
        }
    )*};
}

macro_rules! structs {
    ($($ty:ty)*) => {$(
        // SAFETY: params.rs asserts that the struct has the same layout in C++.
        unsafe impl Argument for $ty {
            type Kind = ArgBytes<{ size_of::<$ty>() }>;
        }
    )*};
}

arguments! {
    u64 => Arg64;
    i64 => Arg64;
    u32 => Arg32;
    f64 => ArgF64;
}
structs! {
    params::Grid<1> params::Grid<2> params::Grid<3> params::Grid<4> params::Grid<5> params::Grid<6>
    params::Grid<9>
    params::Lines<1> params::Lines<2> params::Lines<3>
    params::Reduce params::RandomState params::Triangle params::Scatter params::Gather params::Search params::Sort
    params::Matmul params::Pool params::Convolution params::VolumeConvolution params::PackedPool params::PackedMean params::Groups
    params::PackedGroups params::PackedRows params::PackedNorm params::Norm params::ClassLoss params::LossFinish params::Optim
    params::Unscale
}

/// The arguments of a launch: a tuple whose members have the kinds of the tuple `Kinds`.
pub trait Arguments<Kinds> {
    /// Calls `run` with pointers to the arguments, as the driver takes them.
    fn with<R>(&mut self, run: impl FnOnce(&mut [*mut c_void]) -> R) -> R;
}

macro_rules! tuples {
    ($($($name:ident)*;)*) => {$(
        impl<$($name: Argument),*> Arguments<($($name::Kind,)*)> for ($($name,)*) {
            #[allow(non_snake_case)] // members are named as their types
            fn with<R>(&mut self, run: impl FnOnce(&mut [*mut c_void]) -> R) -> R {
                let ($($name,)*) = self;
                run(&mut [$(std::ptr::from_mut($name).cast()),*])
            }
        }
    )*};
}

tuples! {
    A;
    A B;
    A B C;
    A B C D;
    A B C D E;
    A B C D E F;
    A B C D E F G;
    A B C D E F G H;
    A B C D E F G H I;
    A B C D E F G H I J;
    A B C D E F G H I J K;
    A B C D E F G H I J K L;
    A B C D E F G H I J K L M;
    A B C D E F G H I J K L M N;
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of blocks.
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: [u32; 3],
}

impl Config {
    /// `blocks` blocks of [`params::THREADS`] threads.
    #[must_use]
    pub fn linear(blocks: u32) -> Config {
        Config { grid: [blocks, 1, 1], block: [params::THREADS, 1, 1] }
    }
}

/// A kernel that takes arguments of `Kinds`.
#[derive(Debug)]
pub struct Kernel<Kinds> {
    number: u16,
    kinds: PhantomData<fn(Kinds)>,
}

impl<Kinds> Clone for Kernel<Kinds> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Kinds> Copy for Kernel<Kinds> {}

impl<Kinds> Kernel<Kinds> {
    /// Its index in [`ENTRIES`], for a table of function handles.
    #[must_use]
    pub fn number(self) -> usize {
        usize::from(self.number)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ENTRIES[self.number()].name
    }

    /// Calls `launch` with the kernel's index and pointers to the arguments.
    pub fn launch<R>(
        self,
        mut arguments: impl Arguments<Kinds>,
        launch: impl FnOnce(usize, &mut [*mut c_void]) -> R,
    ) -> R {
        arguments.with(|pointers| launch(self.number(), pointers))
    }
}

/// One column for each dtype, and one for each element size, for kernels that only move elements.
const COLUMNS: usize = DType::ALL.len() + 4;

/// The kernels of a family: one for each operation and dtype that it has.
#[derive(Debug)]
pub struct Family<Kinds> {
    /// Sorted by operation.
    rows: &'static [(&'static str, [u16; COLUMNS])],
    kinds: PhantomData<fn(Kinds)>,
}

impl<Kinds> Family<Kinds> {
    const fn new(rows: &'static [(&'static str, [u16; COLUMNS])]) -> Self {
        Family { rows, kinds: PhantomData }
    }

    /// The kernel of an operation for a dtype; `None` if there is none.
    #[must_use]
    pub fn get(&self, op: &str, dtype: DType) -> Option<Kernel<Kinds>> {
        self.find(op, dtype.row())
    }

    /// The kernel of an operation that only moves elements, for a dtype's size.
    #[must_use]
    pub fn bits(&self, op: &str, dtype: DType) -> Option<Kernel<Kinds>> {
        self.find(op, DType::ALL.len() + dtype.size().trailing_zeros() as usize)
    }

    fn find(&self, op: &str, column: usize) -> Option<Kernel<Kinds>> {
        let row = self.rows.binary_search_by(|(name, _)| (*name).cmp(op)).ok()?;
        let number = self.rows[row].1[column];
        (number != NONE).then_some(Kernel { number, kinds: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use kiln_backend::{BinaryOp, UnaryOp};

    use super::*;

    const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

    #[test]
    fn every_op_of_the_tables_has_its_kernels() {
        if IMAGES.is_empty() {
            // A build without kernels has no rows to check.
            return;
        }
        for &op in UnaryOp::ALL {
            for dtype in FLOATS {
                let kernel = UNARY.get(op.name(), dtype).unwrap();
                assert_eq!(kernel.name(), format!("unary_{}_{}", op.name(), kernel.name().rsplit('_').next().unwrap()));
                assert!(UNARY_GRAD.get(op.name(), dtype).is_some(), "{op:?} {dtype}");
            }
        }
        for &op in BinaryOp::ARITHMETIC {
            for dtype in FLOATS {
                assert!(BINARY.get(op.name(), dtype).is_some(), "{op:?} {dtype}");
                assert!(BINARY_LHS.get(op.name(), dtype).is_some() && BINARY_RHS.get(op.name(), dtype).is_some());
            }
        }
        for op in BinaryOp::COMPARISONS.iter().filter(|op| !matches!(op, BinaryOp::Gt | BinaryOp::Ge)) {
            assert!(DType::ALL.iter().all(|&dtype| BINARY.get(op.name(), dtype).is_some()), "{op:?}");
        }
        for op in BinaryOp::BITWISE {
            assert!(
                BINARY.get(op.name(), DType::U8).is_some() && BINARY.get(op.name(), DType::F32).is_none(),
                "{op:?}"
            );
        }
        for from in DType::ALL {
            for to in DType::ALL {
                let name = |dtype| ENTRIES[BINARY.get("eq", dtype).unwrap().number()].name.rsplit('_').next().unwrap();
                assert_eq!(CAST.get(name(from), to).is_some(), from != to, "{from} {to}");
            }
        }
        assert!(UNARY.get("exp", DType::I64).is_none() && UNARY.get("no such op", DType::F32).is_none());
        assert_eq!(COPY.bits("same", DType::BF16).unwrap().name(), "copy_same_bits16");
    }

    #[test]
    fn arguments_are_handed_on() {
        let grid = params::Grid::<2>::new(&[3], [None, None]);
        let kernel = Kernel::<CopyKinds> { number: 5, kinds: PhantomData };
        let seen = kernel.launch((grid, 7u64, 9u64), |number, pointers| {
            // SAFETY: the second argument is a `u64`.
            (number, pointers.len(), unsafe { *pointers[1].cast::<u64>() })
        });
        assert_eq!(seen, (5, 3, 7));
    }
}
