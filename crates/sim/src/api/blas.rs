//! The functions of cuBLASLt, under their own names and with the library's own rules.
use std::ffi::{c_char, c_int, c_void};

use crate::blas::BlasStatus;
use crate::blas::attributes::{Kind as Sort, Record};
use crate::blas::heuristic::{self, Algorithm, Candidate};
use crate::blas::problem::{Data, Problem, Refusal};
use crate::blas::work::{Product, Scalar};
use crate::kind::Kind;
use crate::profile::Refused;
use crate::work::Work;
use crate::world::{self, CURRENT, World};

use super::stream::own;

fn call(body: impl FnOnce(&mut World) -> Result<(), BlasStatus>) -> BlasStatus {
    world::with(|world| {
        world.collect_hits();
        body(world).err().unwrap_or(BlasStatus::SUCCESS)
    })
}

/// # Safety
/// `out` is null or may be written.
unsafe fn put<T>(out: *mut T, value: T) -> Result<(), BlasStatus> {
    // SAFETY: the caller's promise.
    unsafe { super::put(out, value) }.map_err(|_| BlasStatus::INVALID_VALUE)
}

impl World {
    /// Reports why the library would refuse something, since the library does not.
    fn refuse(&mut self, name: &str, Refusal(status, why): Refusal) -> BlasStatus {
        self.report.refusals.insert(format!("{name} returned {status:?}: {why}"));
        status
    }

    /// A descriptor of this sort. A null one is refused; using one that was destroyed is a mistake that the library
    /// does not notice.
    fn record(&mut self, name: &str, sort: Sort, handle: usize) -> Result<&mut Record, BlasStatus> {
        let fits = self.blas.records.get(&handle).is_some_and(|record| record.kind == sort);
        if !fits && handle != 0 {
            let text = format!("`{name}` is given {handle:#x}, which is no {} (any more)", sort.name());
            self.report.find(Kind::Descriptor, text);
        }
        self.blas.records.get_mut(&handle).filter(|_| fits).ok_or(BlasStatus::INVALID_VALUE)
    }

    fn create(&mut self, out: *mut usize, record: Record) -> Result<(), BlasStatus> {
        let handle = self.handle();
        // SAFETY: the library asks of its caller that this is null or can be written.
        unsafe { put(out, handle) }?;
        self.blas.records.insert(handle, record);
        Ok(())
    }

    fn destroy(&mut self, name: &str, sort: Sort, handle: usize) -> Result<(), BlasStatus> {
        // The library accepts a null descriptor for destruction.
        if handle != 0 {
            self.record(name, sort, handle)?;
            self.blas.records.remove(&handle);
        }
        Ok(())
    }

    /// # Safety
    /// `value` is null or has `bytes` bytes.
    unsafe fn set(
        &mut self,
        name: &str,
        (sort, handle): (Sort, usize),
        attribute: c_int,
        (value, bytes): (*const u8, usize),
    ) -> Result<(), BlasStatus> {
        let record = self.record(name, sort, handle)?;
        if value.is_null() || record.bytes(attribute) != Some(bytes) {
            return Err(BlasStatus::INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        record.set(attribute, unsafe { std::slice::from_raw_parts(value, bytes) })
    }

    /// # Safety
    /// `value` is null or has room for `bytes` bytes, `written` is null or can be written.
    unsafe fn get(
        &mut self,
        name: &str,
        (sort, handle): (Sort, usize),
        attribute: c_int,
        (value, bytes): (*mut u8, usize),
        written: *mut usize,
    ) -> Result<(), BlasStatus> {
        let record = self.record(name, sort, handle)?;
        let size = record.bytes(attribute).ok_or(BlasStatus::INVALID_VALUE)?;
        // SAFETY: the caller's promise.
        unsafe {
            if bytes == 0 {
                return put(written, size);
            }
            if value.is_null() || bytes != size {
                return Err(BlasStatus::INVALID_VALUE);
            }
            std::ptr::copy_nonoverlapping(record.get(attribute).to_le_bytes().as_ptr(), value, size);
            if written.is_null() { Ok(()) } else { put(written, size) }
        }
    }

    /// The problem of a descriptor and four layouts.
    fn problem(&mut self, name: &str, operation: usize, layouts: [usize; 4]) -> Result<Problem, BlasStatus> {
        let operation = self.record(name, Sort::Operation, operation)?.clone();
        let mut records = Vec::with_capacity(4);
        for layout in layouts {
            records.push(self.record(name, Sort::Layout, layout)?.clone());
        }
        let [a, b, c, d] = &records[..] else { return Err(BlasStatus::INVALID_VALUE) };
        Problem::new(&operation, [a, b, c, d]).map_err(|refusal| self.refuse(name, refusal))
    }

    fn handle_is_one(&self, handle: usize) -> Result<(), BlasStatus> {
        if self.blas.handles.contains(&handle) { Ok(()) } else { Err(BlasStatus::NOT_INITIALIZED) }
    }
}

/// Defines functions of the library: arguments, and what each does with the world.
macro_rules! library {
    ($(fn $name:ident($world:ident $(, $argument:ident: $kind:ty)*) $body:block)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of cuBLASLt.")]
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $kind),*) -> BlasStatus {
                call(|$world: &mut World| {
                    $world.report.called(stringify!($name));
                    // SAFETY: the pointers are what the library's manual requires of a caller; null is checked for.
                    #[allow(unused_unsafe, reason = "not every function has pointers")]
                    unsafe { $body }
                })
            }
        )*
    };
}

library! {
    fn cublasLtCreate(world, out: *mut usize) {
        if out.is_null() {
            return Err(BlasStatus::INVALID_VALUE);
        }
        let ready = world.initialized && CURRENT.with_borrow(|stack| stack.last().is_some_and(|context| *context != 0));
        if !ready {
            return Err(BlasStatus::NOT_INITIALIZED);
        }
        if !world.lazy_memory("cublasLtCreate") {
            return Err(BlasStatus(world.profile.lazy_status));
        }
        let handle = world.handle();
        world.blas.handles.push(handle);
        put(out, handle)
    }

    fn cublasLtDestroy(world, handle: usize) {
        if handle == 0 {
            return Err(BlasStatus::INVALID_VALUE);
        }
        world.handle_is_one(handle)?;
        world.blas.handles.retain(|one| *one != handle);
        Ok(())
    }

    fn cublasLtMatmulDescCreate(world, out: *mut usize, compute: c_int, scale: c_int) {
        let mut record = Record::new(Sort::Operation);
        record.put(0, compute.into());
        record.put(1, scale.into());
        world.create(out, record)
    }

    fn cublasLtMatmulDescDestroy(world, desc: usize) {
        world.destroy("cublasLtMatmulDescDestroy", Sort::Operation, desc)
    }

    fn cublasLtMatmulDescSetAttribute(world, desc: usize, attribute: c_int, value: *const u8, bytes: usize) {
        world.set("cublasLtMatmulDescSetAttribute", (Sort::Operation, desc), attribute, (value, bytes))
    }

    fn cublasLtMatmulDescGetAttribute(
        world, desc: usize, attribute: c_int, value: *mut u8, bytes: usize, written: *mut usize
    ) {
        world.get("cublasLtMatmulDescGetAttribute", (Sort::Operation, desc), attribute, (value, bytes), written)
    }

    fn cublasLtMatrixLayoutCreate(world, out: *mut usize, data: c_int, rows: u64, cols: u64, ld: i64) {
        let mut record = Record::new(Sort::Layout);
        for (attribute, value) in [(0, data.into()), (2, rows as i64), (3, cols as i64), (4, ld)] {
            record.put(attribute, value);
        }
        world.create(out, record)
    }

    fn cublasLtMatrixLayoutDestroy(world, layout: usize) {
        world.destroy("cublasLtMatrixLayoutDestroy", Sort::Layout, layout)
    }

    fn cublasLtMatrixLayoutSetAttribute(world, layout: usize, attribute: c_int, value: *const u8, bytes: usize) {
        world.set("cublasLtMatrixLayoutSetAttribute", (Sort::Layout, layout), attribute, (value, bytes))
    }

    fn cublasLtMatrixLayoutGetAttribute(
        world, layout: usize, attribute: c_int, value: *mut u8, bytes: usize, written: *mut usize
    ) {
        world.get("cublasLtMatrixLayoutGetAttribute", (Sort::Layout, layout), attribute, (value, bytes), written)
    }

    fn cublasLtMatmulPreferenceCreate(world, out: *mut usize) {
        world.create(out, Record::new(Sort::Preference))
    }

    fn cublasLtMatmulPreferenceDestroy(world, preference: usize) {
        world.destroy("cublasLtMatmulPreferenceDestroy", Sort::Preference, preference)
    }

    fn cublasLtMatmulPreferenceSetAttribute(
        world, preference: usize, attribute: c_int, value: *const u8, bytes: usize
    ) {
        world.set("cublasLtMatmulPreferenceSetAttribute", (Sort::Preference, preference), attribute, (value, bytes))
    }

    fn cublasLtMatmulPreferenceGetAttribute(
        world, preference: usize, attribute: c_int, value: *mut u8, bytes: usize, written: *mut usize
    ) {
        world.get(
            "cublasLtMatmulPreferenceGetAttribute", (Sort::Preference, preference), attribute, (value, bytes), written
        )
    }

    fn cublasLtMatmulAlgoGetHeuristic(
        world, handle: usize, operation: usize, a: usize, b: usize, c: usize, d: usize, preference: usize,
        requested: c_int, results: *mut Candidate, returned: *mut c_int
    ) {
        const NAME: &str = "cublasLtMatmulAlgoGetHeuristic";
        world.handle_is_one(handle)?;
        if results.is_null() || returned.is_null() || requested <= 0 {
            return Err(BlasStatus::INVALID_VALUE);
        }
        let preference = world.record(NAME, Sort::Preference, preference)?.clone();
        returned.write(0);
        let problem = world.problem(NAME, operation, [a, b, c, d])?;
        let number = world.blas.records.get(&operation).map_or(0, |record| record.get(7));
        for (asked, status) in [(number, BlasStatus::NOT_SUPPORTED), (-number, BlasStatus::INVALID_VALUE)] {
            if world.profile.faults.no_epilogues.contains(&asked) {
                return Err(world.refuse(NAME, Refusal(status, "the simulator was asked to offer nothing")));
            }
        }
        let mut found = heuristic::candidates(&problem, &preference);
        if world.profile.faults.most_candidates > 0 {
            found.truncate(world.profile.faults.most_candidates);
        }
        if found.is_empty() {
            return Err(world.refuse(NAME, Refusal(BlasStatus::NOT_SUPPORTED, "no algorithm fits the preference")));
        }
        for (i, candidate) in found.iter().take(requested as usize).enumerate() {
            results.add(i).write(*candidate);
            returned.write(i as c_int + 1);
        }
        Ok(())
    }

    fn cublasLtMatmul(
        world, handle: usize, operation: usize, alpha: *const c_void, a: u64, a_layout: usize, b: u64,
        b_layout: usize, beta: *const c_void, c: u64, c_layout: usize, d: u64, d_layout: usize,
        algorithm: *const Algorithm, workspace: u64, workspace_bytes: usize, stream: usize
    ) {
        const NAME: &str = "cublasLtMatmul";
        world.handle_is_one(handle)?;
        world.healthy().map_err(|_| BlasStatus::EXECUTION_FAILED)?;
        if alpha.is_null() || beta.is_null() {
            return Err(BlasStatus::INVALID_VALUE);
        }
        let problem = world.problem(NAME, operation, [a_layout, b_layout, c_layout, d_layout])?;
        let stream = own(world, stream).map_err(|_| BlasStatus::INVALID_VALUE)?;
        let scalar = |pointer: *const c_void| {
            if problem.scalars_on_device {
                return Scalar::Address(pointer as u64);
            }
            // Host scalars are read by the call.
            match problem.scale {
                Data::F64 => Scalar::Value(pointer.cast::<f64>().read()),
                Data::F32 => Scalar::Value(pointer.cast::<f32>().read().into()),
                Data::F16 => Scalar::Value(pointer.cast::<half::f16>().read().to_f64()),
                Data::Bf16 => Scalar::Value(pointer.cast::<half::bf16>().read().to_f64()),
            }
        };
        let (alpha, beta) = (scalar(alpha), scalar(beta));
        let algorithm = if algorithm.is_null() { Algorithm::plain(&problem) } else { algorithm.read() };
        if !algorithm.is_one() {
            return Err(world.refuse(NAME, Refusal(BlasStatus::INVALID_VALUE, "the algorithm was not initialized")));
        }
        let mut product = Product { problem, a, b, c, d, alpha, beta, workspace, workspace_bytes };
        product.check(&algorithm).map_err(|refusal| world.refuse(NAME, refusal))?;
        let epilogue = world.blas.records.get(&operation).map_or(0, |record| record.get(7)).to_string();
        let faults = &world.profile.faults;
        let refused =
            Refused::find(&faults.no_products, &epilogue, algorithm.rank() as u32, BlasStatus::NOT_SUPPORTED.0);
        if let Some(status) = refused {
            return Err(world.refuse(NAME, Refusal(BlasStatus(status), "the simulator was asked to refuse it")));
        }
        if !world.lazy_memory(NAME) {
            let status = BlasStatus(world.profile.lazy_status);
            return Err(world.refuse(NAME, Refusal(status, "there is no memory for its kernels")));
        }
        product.workspace_bytes = algorithm.workspace as usize;
        if let Some(why) = product.conflict() {
            world.report.find(Kind::Overlap, format!("`{NAME}`: {why}, so that the result is not defined"));
        }
        let faults = &mut world.profile.faults;
        if faults.launch.fails() {
            return Err(BlasStatus::EXECUTION_FAILED);
        }
        world.taking(stream).map_err(|_| BlasStatus::EXECUTION_FAILED)?;
        if !world.captures.has(stream) {
            world.report.counts.products += 1;
        }
        world.submit(stream, NAME, None, Work::Product(Box::new(product)));
        Ok(())
    }
}

/// `cublasLtGetVersion` of cuBLASLt.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    // The oldest of each major version.
    world::with(|world| 10 * world.profile.libraries().unsigned_abs() as usize)
}

fn texts(status: u32) -> (&'static std::ffi::CStr, &'static std::ffi::CStr) {
    match status {
        0 => (c"CUBLAS_STATUS_SUCCESS", c"success"),
        1 => (c"CUBLAS_STATUS_NOT_INITIALIZED", c"the library was not initialized"),
        3 => (c"CUBLAS_STATUS_ALLOC_FAILED", c"the resource allocation failed"),
        7 => (c"CUBLAS_STATUS_INVALID_VALUE", c"an unsupported value or parameter was passed to the function"),
        8 => (c"CUBLAS_STATUS_ARCH_MISMATCH", c"the function requires an architectural feature absent from the device"),
        11 => (c"CUBLAS_STATUS_MAPPING_ERROR", c"an access to GPU memory space failed"),
        13 => (c"CUBLAS_STATUS_EXECUTION_FAILED", c"the function failed to launch on the GPU"),
        14 => (c"CUBLAS_STATUS_INTERNAL_ERROR", c"an internal operation failed"),
        15 => (c"CUBLAS_STATUS_NOT_SUPPORTED", c"the requested functionality is not supported"),
        16 => (c"CUBLAS_STATUS_LICENSE_ERROR", c"the license check failed"),
        _ => (c"unrecognized status", c"unrecognized status"),
    }
}

/// `cublasLtGetStatusName` of cuBLASLt.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetStatusName(status: u32) -> *const c_char {
    texts(status).0.as_ptr()
}

/// `cublasLtGetStatusString` of cuBLASLt.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetStatusString(status: u32) -> *const c_char {
    texts(status).1.as_ptr()
}
