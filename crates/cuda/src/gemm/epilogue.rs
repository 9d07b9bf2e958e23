//! The epilogues that cuBLASLt applies to a product before writing it, and the ReLU masks that they write or read.

use cudarc::cublaslt::sys::cublasLtEpilogue_t as LtEpilogue;

/// An operation that the library applies to the product before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Epilogue {
    None,
    /// Adds a dense vector along the rows of `D`.
    Bias,
    /// `max(x, 0)`.
    Relu,
    /// The bias and then `max(x, 0)`.
    BiasRelu,
    /// `max(x, 0)`, and a mask of the elements above 0.
    ReluMask,
    /// The bias, `max(x, 0)`, and a mask of the elements above 0.
    BiasReluMask,
    /// Zeroes the elements that the mask says ReLU zeroed.
    ReluGrad,
    /// As `ReluGrad`, and also writes the sums of the rows of `D` to the address of the bias.
    ReluBiasGrad,
    /// Writes to the address of the bias the sums of the second operand over the product's summed dimension: one for
    /// each column of `D`.
    BiasGrad,
}

impl Epilogue {
    /// The library's constant, whether it has a vector (the bias or its gradient), and whether it has a mask.
    pub(super) fn parts(self) -> (LtEpilogue, bool, bool) {
        match self {
            Epilogue::None => (LtEpilogue::CUBLASLT_EPILOGUE_DEFAULT, false, false),
            Epilogue::Bias => (LtEpilogue::CUBLASLT_EPILOGUE_BIAS, true, false),
            Epilogue::Relu => (LtEpilogue::CUBLASLT_EPILOGUE_RELU, false, false),
            Epilogue::BiasRelu => (LtEpilogue::CUBLASLT_EPILOGUE_RELU_BIAS, true, false),
            Epilogue::ReluMask => (LtEpilogue::CUBLASLT_EPILOGUE_RELU_AUX, false, true),
            Epilogue::BiasReluMask => (LtEpilogue::CUBLASLT_EPILOGUE_RELU_AUX_BIAS, true, true),
            Epilogue::ReluGrad => (LtEpilogue::CUBLASLT_EPILOGUE_DRELU, false, true),
            Epilogue::ReluBiasGrad => (LtEpilogue::CUBLASLT_EPILOGUE_DRELU_BGRAD, true, true),
            Epilogue::BiasGrad => (LtEpilogue::CUBLASLT_EPILOGUE_BGRADB, true, false),
        }
    }
}

/// A mask has one bit for each element of `D`. Its columns are this many bits apart, the least that the library
/// accepts. The order of bits within a column is internal to the library.
pub(super) fn mask_step(rows: usize) -> usize {
    rows.next_multiple_of(128)
}

/// Bytes of the mask of a `D` with this many rows and columns.
pub(crate) fn mask_len(rows: usize, columns: usize) -> usize {
    mask_step(rows) / 8 * columns
}
