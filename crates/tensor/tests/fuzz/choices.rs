//! Random arguments: mostly small and sensible, sometimes extreme.

use kiln_tensor::{DType, Device, Element, Scalar, Tensor};

/// A stream of choices made from one seed.
pub struct Choices(u64);

impl Choices {
    pub fn new(seed: u64) -> Choices {
        Choices(seed)
    }

    /// SplitMix64 (Steele et al., 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    /// A dimension, at times out of range.
    pub fn dim(&mut self) -> i64 {
        if self.below(40) == 0 { self.pick(&[i64::MIN, i64::MAX]) } else { self.below(6) as i64 - 3 }
    }

    /// Some dimensions.
    pub fn dims(&mut self) -> Vec<i64> {
        (0..self.below(4)).map(|_| self.dim()).collect()
    }

    pub fn int(&mut self) -> i64 {
        if self.below(20) == 0 {
            self.pick(&[i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX])
        } else {
            self.below(8) as i64 - 3
        }
    }

    /// A number of elements: small, or more than any memory holds.
    pub fn size(&mut self) -> usize {
        if self.below(20) == 0 { self.pick(&[usize::MAX, usize::MAX / 2, 1 << 62]) } else { self.below(5) }
    }

    /// Numbers that may be a shape, with -1 among them.
    pub fn extents(&mut self) -> Vec<i64> {
        (0..self.below(5))
            .map(|_| if self.below(20) == 0 { self.pick(&[i64::MIN, -2, i64::MAX]) } else { self.below(5) as i64 - 1 })
            .collect()
    }

    pub fn float(&mut self) -> f64 {
        if self.below(4) == 0 {
            self.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e300, -1.0, 1.0])
        } else {
            self.below(9) as f64 / 4.0 - 1.0
        }
    }

    pub fn scalar(&mut self) -> Scalar {
        match self.below(5) {
            0 | 1 => Scalar::Float(self.float()),
            2 | 3 => Scalar::Int(self.int()),
            _ => Scalar::Bool(self.flag()),
        }
    }

    pub fn dtype(&mut self) -> DType {
        // Floats more often: they have gradients.
        self.pick(&[
            DType::F32,
            DType::F32,
            DType::F64,
            DType::F64,
            DType::F16,
            DType::BF16,
            DType::I64,
            DType::I32,
            DType::U8,
            DType::Bool,
        ])
    }

    /// A tensor of the dtype, of any shape, lying in any way.
    pub fn tensor(&mut self, dtype: DType) -> Tensor {
        let dims: Vec<usize> = (0..self.below(4)).map(|_| self.below(4)).collect();
        self.tensor_of(dtype, &dims)
    }

    pub fn tensor_of(&mut self, dtype: DType, dims: &[usize]) -> Tensor {
        fn make<T: Element>(choices: &mut Choices, dims: &[usize]) -> Tensor {
            let count = dims.iter().product();
            let values: Vec<T> = (0..count)
                .map(|_| {
                    T::from_scalar(if T::DTYPE.is_float() {
                        Scalar::Float(choices.float())
                    } else {
                        Scalar::Int(choices.below(4) as i64)
                    })
                })
                .collect();
            Tensor::from_vec(values, dims, Device::Cpu).unwrap()
        }
        let plain = kiln_backend::dispatch_dtype!(dtype, T => make::<T>(self, dims));
        let laid = match self.below(5) {
            0 if dims.len() >= 2 => plain.transpose(0, 1),
            1 if !dims.is_empty() && dims[0] > 1 => plain.narrow(0, 1, dims[0] - 1),
            2 if !dims.is_empty() && dims[0] > 0 => plain.narrow(0, 0, 1).and_then(|row| row.expand(dims)),
            3 if !dims.is_empty() => plain.slice(-1, 0, i64::MAX, 2),
            _ => Ok(plain),
        };
        let laid = laid.unwrap().detach();
        if dtype.is_float() && self.flag() { laid.requires_grad_(true).unwrap() } else { laid }
    }

    /// An index tensor for some dimension.
    pub fn index(&mut self) -> Tensor {
        let dtype = if self.below(8) == 0 { self.dtype() } else { DType::I64 };
        self.tensor(dtype).detach()
    }

    pub fn mask(&mut self) -> Tensor {
        let dtype = if self.below(8) == 0 { self.dtype() } else { DType::Bool };
        self.tensor(dtype).detach()
    }
}
