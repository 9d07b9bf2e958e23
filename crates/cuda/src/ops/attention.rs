//! `scaled_dot_product_attention` and its gradient in half precision, by cuDNN's attention. What that does not take (other dtypes,
//! masks, dropout, few queries), and what has to give the same bits each time, is composed of products and softmax.

use kiln_backend::{
    AttentionArgs, AttentionBackend, AttentionCall, AttentionGradArgs, Checked, DType, ErrorKind, Layout, Result,
    are_deterministic_algorithms_enabled,
};

use crate::{
    attention::{
        graph::{ALIGNMENT, uid},
        plans::{AttentionPlans, Call},
        problem::{Pass, Problem, Strides, dense},
    },
    device::{CudaBackend, Device},
    fallbacks,
    memory::Block,
    view::{Access, Tensor},
};

const OP: &str = "scaled_dot_product_attention";

/// Each number of keys needs a plan of its own, which takes half a second to compile. A text that grows word by word has a new
/// number for every word, but one query, so that its scores are few.
const MIN_QUERIES: usize = 64;
/// Before 9.16 the gradient has faults where the number of keys is no multiple of 128, so that NVIDIA's own front end adds a mask
/// then; and this form was not tried with anything older.
const OLDEST_CUDNN: u32 = 91_700;
/// Rows are read by 16 bytes.
const FEATURES_MULTIPLE: usize = 8;
/// Larger heads have engines on some devices only.
const MAX_FEATURES: usize = 256;

/// An operand as cuDNN gets it: in place, or as a dense copy.
struct Taken {
    address: u64,
    strides: Strides,
    copy: Option<(Block, Layout)>,
}

/// The extents of an operand of the contract's four dimensions.
fn dims(layout: &Layout) -> [usize; 4] {
    <[usize; 4]>::try_from(layout.dims()).unwrap_or_default()
}

/// The strides of a tensor in place, if the library takes it so: rows are dense and begin at multiples of 16 bytes, and
/// 32 bits count its elements.
fn strides_in_place(tensor: &Tensor) -> Option<Strides> {
    let (dims, steps) = (dims(tensor.layout), tensor.layout.strides());
    if !tensor.address.is_multiple_of(ALIGNMENT) {
        return None;
    }
    let mut strides = dense(dims);
    for (dim, stride) in strides.iter_mut().enumerate().filter(|(dim, _)| dims[*dim] > 1) {
        *stride = usize::try_from(steps[dim]).ok().filter(|step| *step > 0)?;
    }
    let by_rows = strides[..3].iter().all(|stride| stride.is_multiple_of(FEATURES_MULTIPLE));
    let span: usize = strides.iter().zip(dims).map(|(stride, dim)| stride * (dim - 1)).sum();
    (strides[3] == 1 && by_rows && span < i32::MAX as usize).then_some(strides)
}

impl AttentionBackend for CudaBackend {
    fn has_attention(&self, call: &AttentionCall) -> bool {
        let AttentionCall { dtype, queries, keys, features, is_masked, has_dropout } = *call;
        let sizes = |size: &usize| *size > 0 && size.is_multiple_of(FEATURES_MULTIPLE) && *size <= MAX_FEATURES;
        // The gradient of the queries is added in any order.
        let may_vary = !are_deterministic_algorithms_enabled();
        let plain = !is_masked && !has_dropout && may_vary;
        let fits = queries >= MIN_QUERIES && keys > 0 && features.iter().all(sizes);
        plain && fits && matches!(dtype, DType::F16 | DType::BF16) && self.0.has_attention_plans()
    }

    fn attention(&self, args: Checked<AttentionArgs>) -> Result<bool> {
        let (device, access) = (self.0, Access { device: self.0, op: OP });
        let AttentionArgs { query, key, value, rule, out, log_sum } = args.into_inner();
        if !self.has_attention(&AttentionCall::new([query, key, value], &rule)) {
            return Ok(false);
        }
        let [q, k, v] = [access.read(query)?, access.read(key)?, access.read(value)?];
        let (out, log_sum) = (access.write(out)?, access.write(log_sum)?);
        let Some(plans) = device.plans_for([q, k, v])? else { return Ok(false) };
        let operands = Operands(device);
        let [taken_q, taken_k, taken_v] = [operands.take(&q)?, operands.take(&k)?, operands.take(&v)?];
        let (taken_out, taken_sum) = (operands.room_for(&out)?, operands.room_for(&log_sum)?);
        let strides =
            [taken_q.strides, taken_k.strides, taken_v.strides, dense(dims(out.layout)), dense(dims(out.layout))];
        let problem = problem(Pass::Forward, [q, k, v], rule.is_causal, strides);
        let at = [
            (uid::Q, taken_q.address),
            (uid::K, taken_k.address),
            (uid::V, taken_v.address),
            (uid::OUT, taken_out.address),
            (uid::LOG_SUM, taken_sum.address),
        ];
        // SAFETY: the operands were checked against their buffers, or copied into memory of their size, and lie as the problem
        // says.
        let done = unsafe { plans.run(&Call { problem: &problem, scale: rule.scale as f32, at: &at })? };
        if done {
            operands.give_back(&taken_out, out)?;
            operands.give_back(&taken_sum, log_sum)?;
        }
        Ok(done)
    }

    fn attention_grad(&self, args: Checked<AttentionGradArgs>) -> Result<bool> {
        let (device, access) = (self.0, Access { device: self.0, op: OP });
        let AttentionGradArgs { grad, query, key, value, rule, out, log_sum, query_grad, key_grad, value_grad } =
            args.into_inner();
        // Determinism may have been asked for since the forward pass.
        if !self.has_attention(&AttentionCall::new([query, key, value], &rule)) {
            return Ok(false);
        }
        let [q, k, v] = [access.read(query)?, access.read(key)?, access.read(value)?];
        let [out, grad, log_sum] = [access.read(out)?, access.read(grad)?, access.read(log_sum)?];
        let grads = [access.write(query_grad)?, access.write(key_grad)?, access.write(value_grad)?];
        let Some(plans) = device.plans_for([q, k, v])? else { return Ok(false) };
        let operands = Operands(device);
        let [q_taken, k_taken, v_taken, out_taken, grad_taken] =
            [operands.take(&q)?, operands.take(&k)?, operands.take(&v)?, operands.take(&out)?, operands.take(&grad)?];
        let sums_taken = operands.dense(&log_sum)?;
        let [dq, dk, dv] =
            [operands.room_for(&grads[0])?, operands.room_for(&grads[1])?, operands.room_for(&grads[2])?];
        let strides = [&q_taken, &k_taken, &v_taken, &out_taken, &grad_taken].map(|taken| taken.strides);
        let problem = problem(Pass::Backward, [q, k, v], rule.is_causal, strides);
        let bytes_of = |elements: usize| elements * DType::F32.size();
        let row_sums = device.scratch(bytes_of(log_sum.layout.numel()))?;
        let dq_sum = device.scratch(bytes_of(q.layout.numel()))?;
        let at = [
            (uid::Q, q_taken.address),
            (uid::K, k_taken.address),
            (uid::V, v_taken.address),
            (uid::OUT, out_taken.address),
            (uid::LOG_SUM, sums_taken.address),
            (uid::GRAD, grad_taken.address),
            (uid::DQ, dq.address),
            (uid::DK, dk.address),
            (uid::DV, dv.address),
            (uid::ROW_SUMS, row_sums.address()),
            (uid::DQ_SUM, dq_sum.address()),
        ];
        // SAFETY: as above; the sums have memory of their size.
        let done = unsafe { plans.run(&Call { problem: &problem, scale: rule.scale as f32, at: &at })? };
        if done {
            for (taken, grad) in [&dq, &dk, &dv].into_iter().zip(grads) {
                operands.give_back(taken, grad)?;
            }
        }
        Ok(done)
    }
}

/// The problem that these queries, keys and values make.
fn problem(pass: Pass, qkv: [Tensor; 3], is_causal: bool, strides: [Strides; 5]) -> Problem {
    let [[samples, heads, queries, features], [_, groups, keys, _], [.., values]] = qkv.map(|one| dims(one.layout));
    let dtype = qkv[0].dtype;
    Problem { pass, dtype, is_causal, samples, heads, groups, queries, keys, features, values, strides }
}

impl Device {
    /// Whether the device and its cuDNN are new enough.
    fn has_attention_plans(&self) -> bool {
        let library = self.libraries().cudnn.as_ref().ok().and_then(|library| library.version());
        self.info().compute_capability >= (8, 0) && library.is_some_and(|version| version >= OLDEST_CUDNN)
    }

    /// What plans are executed with; `None` if there is nothing to compute, too much for 32 bits to count, or no library that
    /// works.
    fn plans_for(&'static self, qkv: [Tensor; 3]) -> Result<Option<&'static AttentionPlans>> {
        let [q, k, v] = qkv.map(|one| one.layout.numel());
        let most = i32::MAX as usize;
        if [q, k, v].iter().any(|elements| *elements == 0 || *elements > most)
            || q / dims(qkv[0].layout)[3] * dims(qkv[2].layout)[3] > most
        {
            return Ok(None);
        }
        match self.attention_plans() {
            Err(error) if !matches!(error.kind(), ErrorKind::OutOfMemory { .. }) => {
                fallbacks::note(format!("cuda:{}: attention composed of products and softmax: {error}", self.index()));
                Ok(None)
            }
            plans => plans.map(Some),
        }
    }
}

/// Gives the library the operands of one call.
#[derive(Clone, Copy)]
struct Operands(&'static Device);

impl Operands {
    /// An operand to read, copied unless the library takes it as it lies.
    fn take(self, tensor: &Tensor) -> Result<Taken> {
        match strides_in_place(tensor) {
            Some(strides) => Ok(Taken { address: tensor.address, strides, copy: None }),
            None => self.copied(tensor),
        }
    }

    /// An operand to read as a dense one.
    fn dense(self, tensor: &Tensor) -> Result<Taken> {
        let is_dense = tensor.layout.is_contiguous() && tensor.address.is_multiple_of(ALIGNMENT);
        if is_dense {
            return Ok(Taken { address: tensor.address, strides: Strides::default(), copy: None });
        }
        self.copied(tensor)
    }

    fn copied(self, tensor: &Tensor) -> Result<Taken> {
        let taken = self.room(tensor)?;
        if let Some((_, layout)) = &taken.copy {
            self.0.copy_tensor(*tensor, Tensor { dtype: tensor.dtype, layout, address: taken.address })?;
        }
        Ok(taken)
    }

    /// Where a result is written: in place if it is dense, or else into memory from which it is copied.
    fn room_for(self, tensor: &Tensor) -> Result<Taken> {
        if tensor.layout.is_contiguous() && tensor.address.is_multiple_of(ALIGNMENT) {
            return Ok(Taken { address: tensor.address, strides: dense(dims(tensor.layout)), copy: None });
        }
        self.room(tensor)
    }

    /// Memory for a dense copy.
    fn room(self, tensor: &Tensor) -> Result<Taken> {
        let layout = Layout::contiguous(*tensor.layout.shape());
        let memory = self.0.scratch(layout.numel() * tensor.dtype.size())?;
        Ok(Taken { address: memory.address(), strides: dense(dims(&layout)), copy: Some((memory, layout)) })
    }

    /// Copies a result to where it belongs, unless it is there.
    fn give_back(self, taken: &Taken, to: Tensor) -> Result<()> {
        match &taken.copy {
            Some((_, layout)) => self.0.copy_tensor(Tensor { dtype: to.dtype, layout, address: taken.address }, to),
            None => Ok(()),
        }
    }
}
