//! Attention as a cuDNN operation graph: products and element-wise operations between tensors without memory, which the library
//! knows as attention by their pattern. (It has an operation for attention as a whole as well, but up to 9.26 neither with the
//! causal mask as an attribute nor with engines for the gradient.)

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t::{self as Name, *},
    cudnnBackendDescriptorType_t::{self as Kind, *},
    cudnnDataType_t::{self as Data, CUDNN_DATA_BOOLEAN, CUDNN_DATA_FLOAT, CUDNN_DATA_INT32},
    cudnnHandle_t,
    cudnnPointwiseMode_t::{self as Mode, *},
    cudnnReduceTensorOp_t::{self as Reduction, CUDNN_REDUCE_TENSOR_ADD, CUDNN_REDUCE_TENSOR_MAX},
    cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE,
};

use super::problem::{Pass, Problem, Strides, dense};
use crate::{
    cudnn::{
        descriptor::Descriptor,
        plan::{Computation, Engine},
    },
    library_dtypes::convolution_type,
    libs::{Cudnn, Failed},
};

/// The unique ids of tensors that have an address. A variant pack binds them.
pub(crate) mod uid {
    pub(crate) const Q: i64 = 1;
    pub(crate) const K: i64 = 2;
    pub(crate) const V: i64 = 3;
    pub(crate) const OUT: i64 = 4;
    /// The logarithms of the sums of each query.
    pub(crate) const LOG_SUM: i64 = 5;
    pub(crate) const GRAD: i64 = 6;
    pub(crate) const DQ: i64 = 7;
    pub(crate) const DK: i64 = 8;
    pub(crate) const DV: i64 = 9;
    /// The sums over each row of the result times its gradient: memory that only the plan uses.
    pub(crate) const ROW_SUMS: i64 = 10;
    /// The gradient of the queries before it is rounded, likewise.
    pub(crate) const DQ_SUM: i64 = 11;
    /// Numbers that the host holds: the factor of the scores, the score of a key that is not visible, and 1.
    pub(crate) const SCALE: i64 = 12;
    pub(crate) const HIDDEN: i64 = 13;
    pub(crate) const ONE: i64 = 14;
    /// The first id of the tensors between two operations, which are not in memory.
    pub(super) const BETWEEN: i64 = 20;
}

/// The alignment of all tensors: operands that are less aligned are copied.
pub(crate) const ALIGNMENT: u64 = 16;

/// The last two of four exchanged.
fn transposed<T: Copy>([a, b, c, d]: [T; 4]) -> [T; 4] {
    [a, b, d, c]
}

/// Extents or strides in the library's integer type.
fn wide(values: [usize; 4]) -> [i64; 4] {
    values.map(|value| i64::try_from(value).unwrap_or(i64::MAX))
}

/// A graph in the making.
struct Builder<'a> {
    library: &'static Cudnn,
    problem: &'a Problem,
    /// The type of the operands.
    data: Data,
    operations: Vec<Descriptor>,
    next: i64,
}

impl Builder<'_> {
    fn described(&self, uid: i64, data: Data, dims: [usize; 4], strides: Strides) -> Result<Descriptor, Failed> {
        Descriptor::new(self.library, CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
            .set(CUDNN_ATTR_TENSOR_UNIQUE_ID, &[uid])?
            .set(CUDNN_ATTR_TENSOR_DATA_TYPE, &[data])?
            .set(CUDNN_ATTR_TENSOR_DIMENSIONS, &wide(dims))?
            .set(CUDNN_ATTR_TENSOR_STRIDES, &wide(strides))?
            .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[ALIGNMENT as i64])?
            .set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, &[uid >= uid::BETWEEN])?
            .set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, &[(uid::SCALE..=uid::ONE).contains(&uid)])?
            .finalize()
    }

    /// An operand in memory.
    fn operand(&self, uid: i64, dims: [usize; 4], strides: Strides) -> Result<Descriptor, Failed> {
        self.described(uid, self.data, dims, strides)
    }

    /// A number that the host holds.
    fn number(&self, uid: i64) -> Result<Descriptor, Failed> {
        self.described(uid, CUDNN_DATA_FLOAT, [1; 4], [1; 4])
    }

    /// A tensor between two operations, with these strides.
    fn strided(&mut self, data: Data, dims: [usize; 4], strides: Strides) -> Result<Descriptor, Failed> {
        self.next += 1;
        self.described(self.next, data, dims, strides)
    }

    /// A tensor between two operations.
    fn between(&mut self, data: Data, dims: [usize; 4]) -> Result<Descriptor, Failed> {
        self.strided(data, dims, dense(dims))
    }

    /// Adds an operation on tensors, and by a rule, that are these of its attributes.
    fn add(&mut self, kind: Kind, parts: &[(Name, &Descriptor)]) -> Result<(), Failed> {
        let operation = Descriptor::new(self.library, kind)?;
        let set = |operation: Descriptor, (name, part): &(Name, &Descriptor)| operation.set(*name, &[part.raw()]);
        self.operations.push(parts.iter().try_fold(operation, set)?.finalize()?);
        Ok(())
    }

    fn product(&mut self, a: &Descriptor, b: &Descriptor, to: &Descriptor) -> Result<(), Failed> {
        let rule = Descriptor::new(self.library, CUDNN_BACKEND_MATMUL_DESCRIPTOR)?
            .set(CUDNN_ATTR_MATMUL_COMP_TYPE, &[CUDNN_DATA_FLOAT])?
            .finalize()?;
        let parts = [
            (CUDNN_ATTR_OPERATION_MATMUL_DESC, &rule),
            (CUDNN_ATTR_OPERATION_MATMUL_ADESC, a),
            (CUDNN_ATTR_OPERATION_MATMUL_BDESC, b),
            (CUDNN_ATTR_OPERATION_MATMUL_CDESC, to),
        ];
        self.add(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, &parts)
    }

    /// An element-wise operation in a type of one to three operands, or of the index along an axis.
    fn map(
        &mut self,
        (mode, data, axis): (Mode, Data, Option<i64>),
        operands: &[&Descriptor],
        to: &Descriptor,
    ) -> Result<(), Failed> {
        let rule = Descriptor::new(self.library, CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?
            .set(CUDNN_ATTR_POINTWISE_MODE, &[mode])?
            .set(CUDNN_ATTR_POINTWISE_MATH_PREC, &[data])?;
        let rule = match axis {
            Some(axis) => rule.set(CUDNN_ATTR_POINTWISE_AXIS, &[axis])?,
            None => rule,
        };
        let rule = rule.finalize()?;
        let names = [
            CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
            CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
            CUDNN_ATTR_OPERATION_POINTWISE_TDESC,
        ];
        let mut parts: Vec<_> = names.into_iter().zip(operands.iter().copied()).collect();
        parts.extend([
            (CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &rule),
            (CUDNN_ATTR_OPERATION_POINTWISE_YDESC, to),
        ]);
        self.add(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, &parts)
    }

    /// An element-wise operation in `f32`, whose result is one of these extents between two operations.
    fn mapped(&mut self, mode: Mode, operands: &[&Descriptor], dims: [usize; 4]) -> Result<Descriptor, Failed> {
        let to = self.between(CUDNN_DATA_FLOAT, dims)?;
        self.map((mode, CUDNN_DATA_FLOAT, None), operands, &to)?;
        Ok(to)
    }

    /// A sum or maximum along what `to` has less of.
    fn reduce(&mut self, how: Reduction, x: &Descriptor, to: &Descriptor) -> Result<(), Failed> {
        let rule = Descriptor::new(self.library, CUDNN_BACKEND_REDUCTION_DESCRIPTOR)?
            .set(CUDNN_ATTR_REDUCTION_OPERATOR, &[how])?
            .set(CUDNN_ATTR_REDUCTION_COMP_TYPE, &[CUDNN_DATA_FLOAT])?
            .finalize()?;
        let parts = [
            (CUDNN_ATTR_OPERATION_REDUCTION_DESC, &rule),
            (CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x),
            (CUDNN_ATTR_OPERATION_REDUCTION_YDESC, to),
        ];
        self.add(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, &parts)
    }

    /// `x` under the extents and strides of `to`.
    fn reshape(&mut self, x: &Descriptor, to: &Descriptor) -> Result<(), Failed> {
        let parts = [(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x), (CUDNN_ATTR_OPERATION_RESHAPE_YDESC, to)];
        self.add(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, &parts)
    }

    /// The extents of the scores, and of a number for each of their rows.
    fn scores(&self) -> [[usize; 4]; 2] {
        let Problem { samples, heads, queries, keys, .. } = *self.problem;
        [[samples, heads, queries, keys], [samples, heads, queries, 1]]
    }

    /// The scores of queries and transposed keys, times the scale.
    fn scaled(&mut self, q: &Descriptor, kt: &Descriptor, scale: &Descriptor) -> Result<Descriptor, Failed> {
        let [dims, _] = self.scores();
        let scores = self.between(CUDNN_DATA_FLOAT, dims)?;
        self.product(q, kt, &scores)?;
        self.mapped(CUDNN_POINTWISE_MUL, &[&scores, scale], dims)
    }

    /// The scores with those of keys after the query's own number hidden, if attention is causal.
    fn masked(&mut self, scores: Descriptor) -> Result<Descriptor, Failed> {
        if !self.problem.is_causal {
            return Ok(scores);
        }
        let [dims, _] = self.scores();
        let mut index = |axis| {
            let to = self.between(CUDNN_DATA_INT32, dims)?;
            self.map((CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, Some(axis)), &[&scores], &to)?;
            Ok(to)
        };
        let (rows, columns) = (index(2)?, index(3)?);
        let visible = self.between(CUDNN_DATA_BOOLEAN, dims)?;
        self.map((CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, None), &[&rows, &columns], &visible)?;
        let hidden = self.number(uid::HIDDEN)?;
        self.mapped(CUDNN_POINTWISE_BINARY_SELECT, &[&scores, &hidden, &visible], dims)
    }

    /// The result and the logarithm of each row's sum of exponentials.
    fn forward(&mut self) -> Result<(), Failed> {
        let ([q_dims, k_dims, v_dims, out_dims], [q, k, v, ..]) = (self.problem.dims(), self.problem.strides);
        let [dims, row] = self.scores();
        let (q, kt) = (self.operand(uid::Q, q_dims, q)?, self.operand(uid::K, transposed(k_dims), transposed(k))?);
        let v = self.operand(uid::V, v_dims, v)?;
        let (out, scale) = (self.operand(uid::OUT, out_dims, dense(out_dims))?, self.number(uid::SCALE)?);
        let log_sum = self.described(uid::LOG_SUM, CUDNN_DATA_FLOAT, row, dense(row))?;
        let scores = self.scaled(&q, &kt, &scale)?;
        let scores = self.masked(scores)?;
        let max = self.between(CUDNN_DATA_FLOAT, row)?;
        self.reduce(CUDNN_REDUCE_TENSOR_MAX, &scores, &max)?;
        let shifted = self.mapped(CUDNN_POINTWISE_SUB, &[&scores, &max], dims)?;
        let exponentials = self.mapped(CUDNN_POINTWISE_EXP, &[&shifted], dims)?;
        let sum = self.between(CUDNN_DATA_FLOAT, row)?;
        self.reduce(CUDNN_REDUCE_TENSOR_ADD, &exponentials, &sum)?;
        let log = self.mapped(CUDNN_POINTWISE_LOG, &[&sum], row)?;
        self.map((CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, None), &[&max, &log], &log_sum)?;
        let weights = self.between(self.data, dims)?;
        self.map((CUDNN_POINTWISE_DIV, CUDNN_DATA_FLOAT, None), &[&exponentials, &sum], &weights)?;
        self.product(&weights, &v, &out)
    }

    /// A product that is the gradient of a head of keys or values for each head of queries, added over those that share it.
    fn shared_product(&mut self, factors: [&Descriptor; 2], uid: i64, dims: [usize; 4]) -> Result<(), Failed> {
        let [a, b] = factors;
        let to = self.operand(uid, dims, dense(dims))?;
        let [samples, _, rows, features] = dims;
        if self.problem.heads == self.problem.groups {
            return self.product(a, b, &to);
        }
        let of_heads = self.between(self.data, [samples, self.problem.heads, rows, features])?;
        self.product(a, b, &of_heads)?;
        self.reduce(CUDNN_REDUCE_TENSOR_ADD, &of_heads, &to)
    }

    /// A transposed view of a tensor of scores, as a factor.
    fn scores_transposed(&mut self, scores: &Descriptor) -> Result<Descriptor, Failed> {
        let [dims, _] = self.scores();
        let to = self.strided(self.data, transposed(dims), transposed(dense(dims)))?;
        self.reshape(scores, &to)?;
        Ok(to)
    }

    /// The gradients, from weights that are computed again.
    fn backward(&mut self) -> Result<(), Failed> {
        let ([q_dims, k_dims, v_dims, out_dims], [q, k, v, out, grad]) = (self.problem.dims(), self.problem.strides);
        let [dims, row] = self.scores();
        let k_strides = k;
        let (q, kt) = (self.operand(uid::Q, q_dims, q)?, self.operand(uid::K, transposed(k_dims), transposed(k))?);
        let vt = self.operand(uid::V, transposed(v_dims), transposed(v))?;
        let (out, grad) = (self.operand(uid::OUT, out_dims, out)?, self.operand(uid::GRAD, out_dims, grad)?);
        let log_sum = self.described(uid::LOG_SUM, CUDNN_DATA_FLOAT, row, dense(row))?;
        let (scale, one) = (self.number(uid::SCALE)?, self.number(uid::ONE)?);
        let row_sums = self.described(uid::ROW_SUMS, CUDNN_DATA_FLOAT, row, dense(row))?;

        let products = self.mapped(CUDNN_POINTWISE_MUL, &[&grad, &out], out_dims)?;
        let sums = self.between(CUDNN_DATA_FLOAT, row)?;
        self.reduce(CUDNN_REDUCE_TENSOR_ADD, &products, &sums)?;
        // The library wants an operation between the sum and what is in memory.
        self.map((CUDNN_POINTWISE_MUL, CUDNN_DATA_FLOAT, None), &[&sums, &one], &row_sums)?;

        let scores = self.scaled(&q, &kt, &scale)?;
        let logs = self.mapped(CUDNN_POINTWISE_SUB, &[&scores, &log_sum], dims)?;
        let logs = self.masked(logs)?;
        let weights = self.mapped(CUDNN_POINTWISE_EXP, &[&logs], dims)?;
        let weights_t = self.scores_transposed(&weights)?;
        self.shared_product([&weights_t, &grad], uid::DV, v_dims)?;

        let of_weights = self.between(CUDNN_DATA_FLOAT, dims)?;
        self.product(&grad, &vt, &of_weights)?;
        let centered = self.mapped(CUDNN_POINTWISE_SUB, &[&of_weights, &row_sums], dims)?;
        let weighted = self.mapped(CUDNN_POINTWISE_MUL, &[&centered, &weights], dims)?;
        let of_scores = self.between(self.data, dims)?;
        self.map((CUDNN_POINTWISE_MUL, CUDNN_DATA_FLOAT, None), &[&weighted, &scale], &of_scores)?;
        let of_scores_t = self.scores_transposed(&of_scores)?;
        self.shared_product([&of_scores_t, &q], uid::DK, k_dims)?;

        let k = self.strided(self.data, k_dims, k_strides)?;
        self.reshape(&kt, &k)?;
        let dq_sum = self.described(uid::DQ_SUM, CUDNN_DATA_FLOAT, q_dims, dense(q_dims))?;
        self.product(&of_scores, &k, &dq_sum)?;
        let dq = self.operand(uid::DQ, q_dims, dense(q_dims))?;
        self.map((CUDNN_POINTWISE_IDENTITY, CUDNN_DATA_FLOAT, None), &[&dq_sum], &dq)
    }
}

impl Computation for Problem {
    fn graph(&self, library: &'static Cudnn, handle: Option<cudnnHandle_t>) -> Result<Descriptor, Failed> {
        let data = convolution_type(self.dtype).ok_or_else(|| Failed {
            call: "cudnnBackendSetAttribute",
            code: CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE as u32,
            said: format!("no attention of {}", self.dtype),
        })?;
        let mut builder = Builder { library, problem: self, data, operations: Vec::new(), next: uid::BETWEEN };
        match self.pass {
            Pass::Forward => builder.forward()?,
            Pass::Backward => builder.backward()?,
        }
        let all: Vec<_> = builder.operations.iter().map(Descriptor::raw).collect();
        let graph = Descriptor::new(library, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        let mut graph = graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, &all)?;
        if let Some(handle) = handle {
            graph = graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, &[handle])?;
        }
        graph.finalize()
    }

    /// Half precision is what the engines are for; none has a note that they add in any order, though for gradients they do.
    fn fits(&self, _: &Engine) -> bool {
        true
    }
}

impl Problem {
    /// Whether its graph has the number with this unique id.
    pub(crate) fn has(&self, uid: i64) -> bool {
        match uid {
            uid::HIDDEN => self.is_causal,
            uid::ONE => self.pass == Pass::Backward,
            _ => true,
        }
    }
}
