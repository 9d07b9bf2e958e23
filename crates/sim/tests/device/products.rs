//! A matrix product with cuBLASLt, as programs call it.
use std::ffi::c_void;
use std::ptr::{from_ref, null};

use kiln_sim::api::blas::*;
use kiln_sim::api::context::cuCtxSynchronize;
use kiln_sim::{Algorithm, BlasStatus, Candidate, Profile, Status};

use crate::common::{Program, ok};

pub fn done(status: BlasStatus) {
    assert_eq!(status, BlasStatus::SUCCESS);
}

/// A product as a program would ask for it: column-major, `D = op(A) · op(B)`.
pub struct Call {
    pub program: Program,
    pub handle: usize,
    pub operation: usize,
    pub layouts: [usize; 4],
    pub at: [u64; 4],
    pub beta: f32,
    pub workspace: (u64, usize),
    pub stream: usize,
}

/// Rows, columns and leading dimension.
pub type Shape = [u64; 3];

impl Call {
    pub fn new(profile: Profile, shapes: [Shape; 3]) -> Call {
        let program = Program::new(profile);
        let (mut handle, mut operation, mut layouts) = (0, 0, [0; 4]);
        // SAFETY: every pointer is to a variable of its type.
        unsafe {
            done(cublasLtCreate(&raw mut handle));
            done(cublasLtMatmulDescCreate(&raw mut operation, 68, 0));
            for (layout, [rows, cols, ld]) in layouts.iter_mut().zip([shapes[0], shapes[1], shapes[2], shapes[2]]) {
                done(cublasLtMatrixLayoutCreate(layout, 0, rows, cols, ld as i64));
            }
        }
        let bytes = |[_, cols, ld]: Shape| (4 * cols * ld) as usize;
        let numbers = |shape: Shape| (0..bytes(shape) / 4).map(|i| (i % 7) as f32 - 2.0).collect::<Vec<_>>();
        let (a, b) = (program.upload(&numbers(shapes[0])), program.upload(&numbers(shapes[1])));
        let d = program.alloc(bytes(shapes[2]));
        // A copy from ordinary memory returns before the device has it, and other streams do not wait for it.
        // SAFETY: it takes nothing.
        ok(unsafe { cuCtxSynchronize() });
        Call { program, handle, operation, layouts, at: [a, b, d, d], beta: 0.0, workspace: (0, 0), stream: 0 }
    }

    /// 4×3 times 3×2.
    pub fn small() -> Call {
        Call::new(Profile::default(), [[4, 3, 4], [3, 2, 3], [4, 2, 4]])
    }

    pub fn set<T>(&self, attribute: i32, value: T) {
        // SAFETY: the value has so many bytes.
        done(unsafe {
            cublasLtMatmulDescSetAttribute(self.operation, attribute, from_ref(&value).cast(), size_of::<T>())
        });
    }

    pub fn layout<T>(&self, which: usize, attribute: i32, value: T) {
        // SAFETY: as above.
        done(unsafe {
            cublasLtMatrixLayoutSetAttribute(self.layouts[which], attribute, from_ref(&value).cast(), size_of::<T>())
        });
    }

    /// The candidates for memory of `workspace` bytes and addresses that are aligned so.
    pub fn candidates(&self, workspace: u64, alignment: u32) -> Result<Vec<Candidate>, BlasStatus> {
        let mut preference = 0;
        let mut found = Vec::<Candidate>::with_capacity(4);
        let mut count = 0;
        let [a, b, c, d] = self.layouts;
        // SAFETY: every pointer is to a variable of its type, with room for what is asked for.
        let status = unsafe {
            done(cublasLtMatmulPreferenceCreate(&raw mut preference));
            done(cublasLtMatmulPreferenceSetAttribute(preference, 1, from_ref(&workspace).cast(), 8));
            for attribute in 5..=8 {
                done(cublasLtMatmulPreferenceSetAttribute(preference, attribute, from_ref(&alignment).cast(), 4));
            }
            let (room, count) = (found.as_mut_ptr(), &raw mut count);
            let (handle, operation) = (self.handle, self.operation);
            let status = cublasLtMatmulAlgoGetHeuristic(handle, operation, a, b, c, d, preference, 4, room, count);
            done(cublasLtMatmulPreferenceDestroy(preference));
            found.set_len(usize::try_from(*count).unwrap());
            status
        };
        if status == BlasStatus::SUCCESS { Ok(found) } else { Err(status) }
    }

    pub fn run_with(&self, algorithm: *const Algorithm) -> BlasStatus {
        let ([a, b, c, d], alpha) = (self.at, 1.0f32);
        let [la, lb, lc, ld] = self.layouts;
        let (one, beta) = (from_ref(&alpha).cast::<c_void>(), from_ref(&self.beta).cast());
        let (aside, bytes) = self.workspace;
        // SAFETY: the scalars are read by the call; addresses are the device's.
        unsafe {
            cublasLtMatmul(
                self.handle,
                self.operation,
                one,
                a,
                la,
                b,
                lb,
                beta,
                c,
                lc,
                d,
                ld,
                algorithm,
                aside,
                bytes,
                self.stream,
            )
        }
    }

    pub fn run(&self) -> BlasStatus {
        self.run_with(null())
    }

    pub fn output(&self, count: usize) -> Vec<f32> {
        self.program.download(self.at[3], count)
    }

    pub fn synchronize(&self) -> Status {
        // SAFETY: it takes nothing.
        unsafe { cuCtxSynchronize() }
    }

    /// It is refused with this status, for a reason that has these words in it.
    pub fn refused(&self, status: BlasStatus, words: &str) {
        assert_eq!(self.run(), status);
        let refusals = self.program.session.refusals();
        assert!(refusals.iter().any(|text| text.contains(words)), "{words:?} is not in {refusals:?}");
    }
}
