//! Matrix products by cuBLASLt: descriptors, layouts and the heuristic's algorithms are made once per problem and
//! cached.

use std::{
    ffi::{c_int, c_void},
    mem::MaybeUninit,
    ptr,
};

use cudarc::cublaslt::sys::{
    cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as DescAttribute,
    cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t as LayoutAttribute, cudaDataType as Data,
};
use kiln_backend::{DType, Error, Result};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{
    epilogue::{Epilogue, mask_step},
    problem::{Matrix, Product},
};
use crate::{
    error::CudaError,
    fallbacks,
    library_dtypes::product_types,
    libs::{ALLOC_FAILED, CublasLt, status_name},
    memory::DeviceMemory,
    plan_limit::max_plans,
    stream::Stream,
};

/// Everything that the choice of an algorithm depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) dtype: DType,
    /// Whether factors of `f32` may be rounded to TensorFloat-32.
    pub(crate) tf32: bool,
    pub(crate) product: Product,
    pub(crate) epilogue: Epilogue,
    /// The number of products, and the strides between them of `first`, `second` and the output, in elements.
    pub(crate) batch: usize,
    pub(crate) steps: [i64; 3],
    /// The largest powers of two, up to 256, that divide the addresses of `first`, `second`, the output, the bias and
    /// the mask.
    pub(crate) alignment: [u32; 5],
}

/// The addresses of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) first: u64,
    pub(crate) second: u64,
    pub(crate) out: u64,
    pub(crate) bias: u64,
    pub(crate) mask: u64,
}

impl Addresses {
    /// For [`Key::alignment`].
    pub(crate) fn alignment(&self) -> [u32; 5] {
        // A null address counts as fully aligned.
        [self.first, self.second, self.out, self.bias, self.mask].map(|address| 1 << address.trailing_zeros().min(8))
    }
}

/// Maximum workspace of an algorithm; NVIDIA's recommendation for Hopper.
const MAX_WORKSPACE: u64 = 32 << 20;
/// How many of the heuristic's candidates are tried.
const CANDIDATES: usize = 8;
/// Partial sums of a product may be reduced in its compute type, but in no smaller one.
static REDUCTION_IN_COMPUTE_TYPE: u32 = 2;
/// `CUBLAS_OP_T`
const TRANSPOSE: i32 = 1;
const NOT_SUPPORTED: u32 = 15;
const INVALID_VALUE: u32 = 7;
const ARCH_MISMATCH: u32 = 8;
const INTERNAL_ERROR: u32 = 14;
const NOT_INITIALIZED: u32 = 1;
const EXECUTION_FAILED: u32 = 13;

/// Whether a call failed, or may have failed, because the library had no memory.
fn lacks_memory(memory: &DeviceMemory, code: u32) -> bool {
    match code {
        ALLOC_FAILED => true,
        NOT_INITIALIZED | EXECUTION_FAILED | INTERNAL_ERROR => memory.may_lack_memory(),
        _ => false,
    }
}

/// What is made once per problem.
struct Plan {
    desc: cublasLtMatmulDesc_t,
    layouts: [cublasLtMatrixLayout_t; 3],
    /// The remaining candidates, best first, with the workspace of each. Empty if the library has nothing for the
    /// epilogue.
    algorithms: Vec<(cublasLtMatmulAlgo_t, usize)>,
    /// The library's status for the last candidate that it refused.
    refused: u32,
    /// Whether candidates without a workspace have been requested, because there was no memory for one.
    asked_without_workspace: bool,
}

/// A device's handle with its plans.
pub(crate) struct Lt {
    library: &'static CublasLt,
    memory: &'static DeviceMemory,
    handle: cublasLtHandle_t,
    /// Also held during a call, because a call writes the addresses of its bias and mask into the plan's descriptor.
    plans: Mutex<FxHashMap<Key, Plan>>,
}

// SAFETY: handle and descriptors may be used from any thread, one at a time, which the mutex ensures.
unsafe impl Send for Lt {}
// SAFETY: as above.
unsafe impl Sync for Lt {}

impl Lt {
    /// The current context must be the device's.
    pub(crate) fn new(library: &'static CublasLt, memory: &'static DeviceMemory) -> Result<Lt> {
        let mut handle = ptr::null_mut();
        let lt = |handle| Lt { library, memory, handle, plans: Mutex::default() };
        // SAFETY: writes the handle.
        let code =
            memory.with_room(|| unsafe { (library.create)(&raw mut handle) }, |&code| lacks_memory(memory, code));
        match code {
            0 => Ok(lt(handle)),
            code => Err(lt(ptr::null_mut()).failed("cublasLtCreate", "this device", code)),
        }
    }

    fn check(&self, call: &'static str, key: &Key, code: u32) -> Result<()> {
        if code == 0 { Ok(()) } else { Err(self.failed(call, &format!("{key:?}"), code)) }
    }

    fn failed(&self, call: &'static str, problem: &str, code: u32) -> Error {
        let status = format!("{} ({code})", status_name(code));
        if code == ALLOC_FAILED {
            return self.memory.out_of_memory(call, &status);
        }
        CudaError::Library { device: self.memory.device_index(), call, problem: problem.into(), status }.into()
    }

    /// Notes in the report that a kernel of ours does what the epilogue would have done.
    fn note(&self, key: &Key, reason: &str) {
        let Key { dtype, epilogue, .. } = key;
        let device = self.memory.device_index();
        fallbacks::note(format!(
            "cuda:{device}: a matrix product in {dtype} and its epilogue {epilogue:?} by separate kernels: {reason}"
        ));
    }

    /// Queues a product; returns `false` if the library has none for this epilogue.
    ///
    /// The heuristic's candidates may still be refused when they are called: such a candidate is dropped from the plan,
    /// and the next one is tried. A candidate whose workspace cannot be allocated stays in the plan and is skipped.
    ///
    /// # Safety
    /// The addresses are those of matrices and vectors as `key` describes them, in memory that work queued before has
    /// written.
    pub(crate) unsafe fn run(&self, stream: &Stream, key: &Key, at: Addresses) -> Result<bool> {
        stream.context.bind()?;
        let mut plans = self.plans.lock();
        if !plans.contains_key(key) {
            if plans.len() >= max_plans() {
                plans.drain().for_each(|(_, plan)| self.forget(plan));
            }
            plans.insert(*key, self.plan(key, at)?);
        }
        let Some(plan) = plans.get_mut(key) else { return Ok(false) };
        self.set_places(key, plan.desc, at)?;
        let (mut i, mut lacking) = (0, None);
        while let Some((algorithm, bytes)) = plan.algorithms.get(i).copied() {
            let workspace = match self.memory.block(bytes) {
                Ok(workspace) => workspace,
                Err(error) => {
                    i = self.next_smaller(key, plan, i)?.unwrap_or(plan.algorithms.len());
                    lacking = Some(error);
                    continue;
                }
            };
            // SAFETY: by this function's contract; the workspace has as many bytes, and is handed out again only to work
            // that is queued later.
            let call = || unsafe { self.call(stream, key, plan, at, &algorithm, (workspace.address(), bytes)) };
            let code = self.memory.with_room(call, |&code| lacks_memory(self.memory, code));
            if code == 0 {
                stream.queued("cublasLtMatmul")?;
                return Ok(true);
            }
            // After work that was queued earlier has failed, every call fails.
            stream.check_health()?;
            if !matches!(code, NOT_SUPPORTED | INVALID_VALUE | ARCH_MISMATCH | INTERNAL_ERROR) {
                return Err(self.failed("cublasLtMatmul", &format!("{key:?}"), code));
            }
            plan.refused = code;
            plan.algorithms.remove(i);
        }
        // No candidate is left: a kernel of ours can replace an epilogue, but not a product.
        match lacking {
            Some(error) if key.epilogue == Epilogue::None => Err(error),
            None if key.epilogue == Epilogue::None => {
                Err(self.failed("cublasLtMatmul", &format!("{key:?}, with any algorithm"), plan.refused))
            }
            Some(_) => {
                self.note(key, "no memory for a workspace");
                Ok(false)
            }
            None => {
                self.note(key, &format!("cuBLASLt has none that works ({})", status_name(plan.refused)));
                Ok(false)
            }
        }
    }

    /// The next candidate whose workspace is smaller than that of the `i`-th; if the library has listed none without a
    /// workspace, it is asked for those.
    fn next_smaller(&self, key: &Key, plan: &mut Plan, i: usize) -> Result<Option<usize>> {
        let bytes = plan.algorithms[i].1;
        let next = |plan: &Plan| (i..plan.algorithms.len()).find(|&j| plan.algorithms[j].1 < bytes);
        if next(plan).is_none() && !plan.asked_without_workspace {
            plan.asked_without_workspace = true;
            let more = self.candidates(key, plan, 0)?;
            plan.algorithms.extend(more);
        }
        Ok(next(plan))
    }

    /// The library's status.
    ///
    /// # Safety
    /// As for [`run`](Self::run); the workspace is an address of as many bytes.
    unsafe fn call(
        &self,
        stream: &Stream,
        key: &Key,
        plan: &Plan,
        at: Addresses,
        algorithm: &cublasLtMatmulAlgo_t,
        (workspace, bytes): (u64, usize),
    ) -> u32 {
        let scalars: ([f64; 2], [f32; 2]) = ([1.0, 0.0], [1.0, 0.0]);
        let of = |i: usize| -> *const c_void {
            if key.dtype == DType::F64 { (&raw const scalars.0[i]).cast() } else { (&raw const scalars.1[i]).cast() }
        };
        let [first, second, out] = plan.layouts;
        // SAFETY: descriptors and algorithm were made for this key, the caller vouches for the addresses, and the
        // scalars have the scale type that `plan` chose and are read by the call.
        unsafe {
            (self.library.matmul)(
                self.handle,
                plan.desc,
                of(0),
                at.first as *const c_void,
                first,
                at.second as *const c_void,
                second,
                of(1),
                at.out as *const c_void,
                out,
                at.out as *mut c_void,
                out,
                algorithm,
                workspace as *mut c_void,
                bytes,
                stream.raw().cast(),
            )
        }
    }

    fn set_desc<T>(&self, key: &Key, desc: cublasLtMatmulDesc_t, attribute: DescAttribute, value: &T) -> Result<()> {
        // SAFETY: the value is read during the call and has the size that is passed.
        let code = unsafe { (self.library.desc_set)(desc, attribute, ptr::from_ref(value).cast(), size_of::<T>()) };
        self.check("cublasLtMatmulDescSetAttribute", key, code)
    }

    /// Sets the addresses of what the epilogue reads or writes besides matrices.
    fn set_places(&self, key: &Key, desc: cublasLtMatmulDesc_t, at: Addresses) -> Result<()> {
        let (_, bias, mask) = key.epilogue.parts();
        if bias {
            self.set_desc(key, desc, DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &at.bias)?;
        }
        if mask {
            self.set_desc(key, desc, DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &at.mask)?;
        }
        Ok(())
    }

    fn plan(&self, key: &Key, at: Addresses) -> Result<Plan> {
        let mut plan = Plan {
            desc: ptr::null_mut(),
            layouts: [ptr::null_mut(); 3],
            algorithms: Vec::new(),
            refused: NOT_SUPPORTED,
            asked_without_workspace: false,
        };
        match self.fill_plan(key, at, &mut plan) {
            Ok(()) => Ok(plan),
            Err(error) => {
                self.forget(plan);
                Err(error)
            }
        }
    }

    fn fill_plan(&self, key: &Key, at: Addresses, plan: &mut Plan) -> Result<()> {
        let library = self.library;
        let (data, compute, scale) = product_types(key.dtype, key.tf32)?;
        // SAFETY: writes the handle.
        let code = unsafe { (library.desc_create)(&raw mut plan.desc, compute, scale) };
        self.check("cublasLtMatmulDescCreate", key, code)?;
        let product = &key.product;
        let transposes = [
            (product.first, DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA),
            (product.second, DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB),
        ];
        for (_, attribute) in transposes.iter().filter(|(matrix, _)| matrix.transposed) {
            self.set_desc(key, plan.desc, *attribute, &TRANSPOSE)?;
        }
        let (epilogue, _, mask) = key.epilogue.parts();
        if key.epilogue != Epilogue::None {
            self.set_desc(key, plan.desc, DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32))?;
            // The heuristic reads the alignment from the addresses.
            self.set_places(key, plan.desc, at)?;
        }
        if mask {
            let step = mask_step(product.p) as i64;
            self.set_desc(key, plan.desc, DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &step)?;
        }
        let out = Matrix { rows: product.p, cols: product.q, ld: product.ld, transposed: false };
        for (i, matrix) in [product.first, product.second, out].into_iter().enumerate() {
            plan.layouts[i] = self.layout(key, data, matrix, key.steps[i])?;
        }
        plan.algorithms = self.candidates(key, plan, MAX_WORKSPACE)?;
        Ok(())
    }

    /// The heuristic's candidates that need at most `workspace` bytes of workspace, best first; an empty list is not an
    /// error.
    fn candidates(&self, key: &Key, plan: &Plan, workspace: u64) -> Result<Vec<(cublasLtMatmulAlgo_t, usize)>> {
        let mut preference = ptr::null_mut();
        // SAFETY: writes the handle.
        let code = unsafe { (self.library.preference_create)(&raw mut preference) };
        self.check("cublasLtMatmulPreferenceCreate", key, code)?;
        let found = self.candidates_by(key, plan, preference, workspace);
        // SAFETY: made above, not used any more.
        unsafe { (self.library.preference_destroy)(preference) };
        found
    }

    fn layout(&self, key: &Key, data: Data, matrix: Matrix, step: i64) -> Result<cublasLtMatrixLayout_t> {
        let mut layout = ptr::null_mut();
        let Matrix { rows, cols, ld, .. } = matrix;
        // SAFETY: writes the handle.
        let code = unsafe { (self.library.layout_create)(&raw mut layout, data, rows as u64, cols as u64, ld as i64) };
        self.check("cublasLtMatrixLayoutCreate", key, code)?;
        if key.batch > 1 {
            let count = key.batch as i32;
            // SAFETY: the values are read during the calls, with the sizes of the attributes.
            let codes = unsafe {
                let set = self.library.layout_set;
                [
                    set(layout, LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, (&raw const count).cast(), 4),
                    set(
                        layout,
                        LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                        (&raw const step).cast(),
                        8,
                    ),
                ]
            };
            if let Some(code) = codes.into_iter().find(|&code| code != 0) {
                // SAFETY: made above, not used any more.
                unsafe { (self.library.layout_destroy)(layout) };
                self.check("cublasLtMatrixLayoutSetAttribute", key, code)?;
            }
        }
        Ok(layout)
    }

    fn candidates_by(
        &self,
        key: &Key,
        plan: &Plan,
        preference: cublasLtMatmulPreference_t,
        workspace: u64,
    ) -> Result<Vec<(cublasLtMatmulAlgo_t, usize)>> {
        use Preference as P;
        let set = |attribute: Preference, value: *const c_void, bytes| {
            // SAFETY: the value is read during the call, with the size of the attribute.
            let code = unsafe { (self.library.preference_set)(preference, attribute, value, bytes) };
            self.check("cublasLtMatmulPreferenceSetAttribute", key, code)
        };
        set(P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const workspace).cast(), 8)?;
        set(P::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (&raw const REDUCTION_IN_COMPUTE_TYPE).cast(), 4)?;
        let [first, second, out, ..] = key.alignment;
        for (attribute, bytes) in [
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, first),
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, second),
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out),
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
        ] {
            set(attribute, (&raw const bytes).cast(), 4)?;
        }
        let mut results = [const { MaybeUninit::<cublasLtMatmulHeuristicResult_t>::zeroed() }; CANDIDATES];
        let mut returned: c_int = 0;
        let [a, b, d] = plan.layouts;
        // SAFETY: handles made for this key; there is room for as many results as are asked for.
        let ask = || unsafe {
            (self.library.heuristic)(
                self.handle,
                plan.desc,
                a,
                b,
                d,
                d,
                preference,
                CANDIDATES as c_int,
                results.as_mut_ptr().cast(),
                &raw mut returned,
            )
        };
        let code = self.memory.with_room(ask, |&code| lacks_memory(self.memory, code));
        // If a product with an epilogue is refused, it is tried without; a status for other reasons then comes back.
        if code == NOT_SUPPORTED || (code == INVALID_VALUE && key.epilogue != Epilogue::None) {
            return Ok(Vec::new());
        }
        self.check("cublasLtMatmulAlgoGetHeuristic", key, code)?;
        let returned = usize::try_from(returned).unwrap_or(0).min(CANDIDATES);
        let usable = results[..returned].iter().filter_map(|result| {
            let result = result.as_ptr();
            // SAFETY: zeroed, then written by the library. The state is read as a number, because the enum may not have
            // every code.
            unsafe {
                let state = (&raw const (*result).state).cast::<u32>().read();
                (state == 0).then(|| ((*result).algo, (*result).workspaceSize))
            }
        });
        Ok(usable.collect())
    }

    fn forget(&self, plan: Plan) {
        // SAFETY: each was made by the matching call and is not used after this; queued work does not refer to them.
        unsafe {
            for layout in plan.layouts.into_iter().filter(|layout| !layout.is_null()) {
                (self.library.layout_destroy)(layout);
            }
            if !plan.desc.is_null() {
                (self.library.desc_destroy)(plan.desc);
            }
        }
    }
}
