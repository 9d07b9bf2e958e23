//! A product as its descriptor and four layouts describe it, and the library's rules for what is valid.
//!
//! The rules are those of NVIDIA's documentation of `cublasLtMatmul` and of the comments in `cublasLt.h`. Where these
//! leave open whether something is supported, it is refused, so that programs have to have a fallback.
use super::attributes::Record;
use super::status::BlasStatus;

/// A `cudaDataType` of matrices that is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    F32,
    F64,
    F16,
    Bf16,
}

impl Data {
    /// Its name, or that of the type to which factors are rounded.
    pub fn name(self, rounding: Rounding) -> &'static str {
        match (self, rounding) {
            (_, Rounding::Tf32) => "tf32",
            (Data::F16, _) | (_, Rounding::F16) => "f16",
            (Data::Bf16, _) | (_, Rounding::Bf16) => "bf16",
            (Data::F32, Rounding::None) => "f32",
            (Data::F64, Rounding::None) => "f64",
        }
    }

    fn of(number: i64) -> Option<Data> {
        Some(match number {
            0 => Data::F32,
            1 => Data::F64,
            2 => Data::F16,
            14 => Data::Bf16,
            _ => return None,
        })
    }

    pub fn bytes(self) -> usize {
        match self {
            Data::F64 => 8,
            Data::F32 => 4,
            Data::F16 | Data::Bf16 => 2,
        }
    }
}

/// What operands are rounded to before they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    None,
    Tf32,
    F16,
    Bf16,
}

/// A matrix in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    pub data: Data,
    pub rows: usize,
    pub cols: usize,
    pub ld: usize,
    pub row_major: bool,
    /// Elements from one matrix of a batch to the next.
    pub step: i64,
    pub transposed: bool,
}

impl Matrix {
    fn new(layout: &Record, transpose: i64) -> Result<(Matrix, usize), Refusal> {
        let number = |attribute| layout.get(attribute);
        let data = Data::of(number(0)).ok_or(NOT_SIMULATED)?;
        let row_major = match number(1) {
            0 => false,
            1 => true,
            2..=6 => return Err(Refusal(BlasStatus::NOT_SUPPORTED, "this order of elements is for 8-bit integers")),
            _ => return Err(Refusal(BlasStatus::INVALID_VALUE, "there is no such order of elements")),
        };
        let transposed = match transpose {
            0 => false,
            // The conjugate of a real number is itself.
            1 | 2 => true,
            _ => return Err(Refusal(BlasStatus::INVALID_VALUE, "there is no such transposition")),
        };
        let extent = |value: i64| {
            usize::try_from(value)
                .ok()
                .filter(|&value| value > 0 && value <= i32::MAX as usize)
                .ok_or(Refusal(BlasStatus::INVALID_VALUE, "rows and columns are from 1 to 2147483647"))
        };
        let (rows, cols) = (extent(number(2))?, extent(number(3))?);
        let least = if row_major { cols } else { rows };
        let ld = usize::try_from(number(4)).ok().filter(|&ld| ld >= least);
        let ld = ld.ok_or(Refusal(BlasStatus::INVALID_VALUE, "the leading dimension is smaller than a column"))?;
        let batch = usize::try_from(number(5)).ok().filter(|&batch| batch > 0);
        let batch = batch.ok_or(Refusal(BlasStatus::INVALID_VALUE, "a batch has one matrix at least"))?;
        if number(7) != 0 {
            return Err(NOT_SIMULATED);
        }
        Ok((Matrix { data, rows, cols, ld, row_major, step: number(6), transposed }, batch))
    }

    /// The extents of the operand after transposition.
    fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// The operand's strides in elements after transposition: from row to row, from column to column.
    pub fn steps(&self) -> (usize, usize) {
        if self.row_major != self.transposed { (self.ld, 1) } else { (1, self.ld) }
    }
}

/// Parts of a `cublasLtEpilogue_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epilogue {
    pub relu: bool,
    /// Adds a vector.
    pub bias: bool,
    /// ReLU writes a mask, or its gradient reads one.
    pub aux: bool,
    pub relu_gradient: bool,
    /// Which operand the gradient of the bias is a sum of, if it is requested.
    pub bias_gradient: Option<BiasGradient>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BiasGradient {
    Output,
    A,
    B,
}

impl Epilogue {
    fn of(number: i64) -> Result<Epilogue, Refusal> {
        let none = Epilogue::default();
        Ok(match number {
            1 => none,
            2 => Epilogue { relu: true, ..none },
            4 => Epilogue { bias: true, ..none },
            6 => Epilogue { relu: true, bias: true, ..none },
            130 => Epilogue { relu: true, aux: true, ..none },
            134 => Epilogue { relu: true, bias: true, aux: true, ..none },
            136 => Epilogue { relu_gradient: true, aux: true, ..none },
            152 => Epilogue { relu_gradient: true, aux: true, bias_gradient: Some(BiasGradient::Output), ..none },
            256 => Epilogue { bias_gradient: Some(BiasGradient::A), ..none },
            512 => Epilogue { bias_gradient: Some(BiasGradient::B), ..none },
            32 | 36 | 160 | 164 | 192 | 208 => return Err(NOT_SIMULATED),
            _ => return Err(Refusal(BlasStatus::INVALID_VALUE, "there is no such epilogue")),
        })
    }

    /// Whether it reads or writes the descriptor's bias vector.
    pub fn uses_bias(&self) -> bool {
        self.bias || self.bias_gradient.is_some()
    }
}

/// A status with its reason, which the library does not report (but the simulator's report does).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub BlasStatus, pub &'static str);

const NOT_SIMULATED: Refusal = Refusal(BlasStatus::NOT_SUPPORTED, "the simulator does not have this type or epilogue");

fn invalid<T>(why: &'static str) -> Result<T, Refusal> {
    Err(Refusal(BlasStatus::INVALID_VALUE, why))
}

fn unsupported<T>(why: &'static str) -> Result<T, Refusal> {
    Err(Refusal(BlasStatus::NOT_SUPPORTED, why))
}

/// A product that the library can compute: `D = epilogue(alpha · op(A) · op(B) + beta · C)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Matrix,
    pub b: Matrix,
    pub c: Matrix,
    pub d: Matrix,
    pub batch: usize,
    pub scale: Data,
    pub rounding: Rounding,
    pub epilogue: Epilogue,
    /// Alpha and beta are in device memory.
    pub scalars_on_device: bool,
    pub bias: u64,
    pub bias_step: i64,
    pub aux: u64,
    pub aux_ld: usize,
    pub aux_step: i64,
}

impl Problem {
    /// Reads and checks everything that does not depend on addresses.
    pub fn new(operation: &Record, [a, b, c, d]: [&Record; 4]) -> Result<Problem, Refusal> {
        let number = |attribute| operation.get(attribute);
        let epilogue = Epilogue::of(number(7))?;
        let ((a, batch_a), (b, batch_b)) = (Matrix::new(a, number(3))?, Matrix::new(b, number(4))?);
        let ((c, batch_c), (d, batch)) = (Matrix::new(c, 0)?, Matrix::new(d, 0)?);
        if number(5) != 0 || number(6) != 2 {
            return unsupported("C is neither transposed nor a triangle");
        }
        let ((m, k), (k_of_b, n)) = (a.shape(), b.shape());
        if k != k_of_b || d.shape() != (m, n) || c.shape() != (m, n) {
            return invalid("the shapes of A, B, C and D do not belong together");
        }
        if [batch_a, batch_b, batch_c] != [batch; 3] {
            return invalid("the batches of A, B, C and D are not of one size");
        }
        let (rounding, scale) = types(number(0), number(1), [a.data, b.data, c.data, d.data])?;
        let pointer_mode = number(2);
        match pointer_mode {
            0 | 1 => {}
            2..=4 => return Err(NOT_SIMULATED),
            _ => return invalid("there is no such pointer mode"),
        }
        if (17..=21).chain([23, 24]).any(|attribute| number(attribute) != 0) {
            return invalid("scale factors are for 8-bit floats");
        }
        let (bias_type, aux_type) = (number(26), number(22));
        if epilogue.uses_bias() && bias_type != -1 && Data::of(bias_type) != Some(d.data) {
            return unsupported("the bias has the type of D");
        }
        if aux_type != -1 {
            return unsupported("the mask of ReLU is of bits");
        }
        let gradient = epilogue.aux || epilogue.bias_gradient.is_some();
        if gradient && d.data == Data::F64 {
            return unsupported("masks and gradients in double precision are not known to be supported");
        }
        if gradient && (d.row_major || a.row_major || b.row_major) {
            return unsupported("masks and gradients are not known to be supported in row-major order");
        }
        let aux_ld = usize::try_from(number(12)).unwrap_or(0);
        if epilogue.aux && (aux_ld < m || !aux_ld.is_multiple_of(128) || number(13) % 128 != 0) {
            return invalid(
                "the mask's leading dimension covers the rows of D and is a multiple of 128, as is its step",
            );
        }
        Ok(Problem {
            m,
            n,
            k,
            a,
            b,
            c,
            d,
            batch,
            scale,
            rounding,
            epilogue,
            scalars_on_device: pointer_mode == 1,
            bias: number(8) as u64,
            bias_step: number(10),
            aux: number(11) as u64,
            aux_ld,
            aux_step: number(13),
        })
    }
}

/// The documented combinations of types.
fn types(compute: i64, scale: i64, [a, b, c, d]: [Data; 4]) -> Result<(Rounding, Data), Refusal> {
    let scale = Data::of(scale).ok_or(NOT_SIMULATED)?;
    let all = |data| [a, b, c, d] == [data; 4];
    let halves = |data| a == data && b == data && c == d && (d == data || d == Data::F32);
    let (rounding, needed, fits) = match compute {
        // CUBLAS_COMPUTE_16F
        64 | 65 => (Rounding::F16, Data::F16, all(Data::F16)),
        // CUBLAS_COMPUTE_32F
        68 | 69 => (Rounding::None, Data::F32, all(Data::F32) || halves(Data::F16) || halves(Data::Bf16)),
        // CUBLAS_COMPUTE_32F_FAST_16F, …_FAST_16BF, …_FAST_TF32
        74 => (Rounding::F16, Data::F32, all(Data::F32)),
        75 => (Rounding::Bf16, Data::F32, all(Data::F32)),
        77 => (Rounding::Tf32, Data::F32, all(Data::F32)),
        // CUBLAS_COMPUTE_64F
        70 | 71 => (Rounding::None, Data::F64, all(Data::F64)),
        72 | 73 => return Err(NOT_SIMULATED),
        _ => return invalid("there is no such compute type"),
    };
    if fits && scale == needed {
        Ok((rounding, scale))
    } else {
        unsupported("no combination of types in the library's table")
    }
}
