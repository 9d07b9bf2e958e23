//! Helpers for small programs that use the driver API.
use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;

use kiln_sim::api::context::{cuCtxSetCurrent, cuDevicePrimaryCtxRetain};
use kiln_sim::api::device::cuInit;
use kiln_sim::api::event::{cuEventCreate, cuEventRecord};
use kiln_sim::api::launch::cuLaunchKernel;
use kiln_sim::api::memory::{cuMemAlloc_v2, cuMemHostAlloc};
use kiln_sim::api::module::{cuModuleGetFunction, cuModuleLoadData};
use kiln_sim::api::stream::cuStreamCreate;
use kiln_sim::api::transfer::{cuMemcpyDtoH_v2, cuMemcpyHtoD_v2};
use kiln_sim::{Finding, Kind, Profile, Session, Status};

/// A device with a context and the kernels of the tests.
pub struct Program {
    pub session: Session,
    pub module: usize,
}

/// Kernels of the tests with the PTX of their parameters, as nvcc would write it.
const ENTRIES: &[(&str, &str)] = &[
    ("t_fill_f32", "p f l"),
    ("t_axpy_f32", "p p f 24"),
    ("t_vector_f32", "p p l"),
    ("t_half", "p p p l"),
    ("t_sum_f32", "p p l"),
    ("t_sum_i64", "p p l"),
    ("t_reverse_f32", "p p"),
    ("t_votes", "p"),
    ("t_histogram", "p p p i"),
    ("f_off_by_one", "p l"),
    ("f_no_barrier", "p p"),
    ("f_no_second_barrier", "p p"),
    ("f_divergent_barrier", "p"),
    ("f_wrong_mask", "p"),
    ("f_mask_without_self", "p"),
    ("f_shared_overrun", "p"),
    ("f_shared_unset", "p"),
    ("f_unaligned_vector", "p p"),
    ("f_null", "p p"),
    ("f_wild", "p"),
    ("f_trap", "p"),
    ("f_no_loop", "p p l"),
    ("f_last_unwritten", "p p l"),
    ("f_overwrites", "p p l"),
    ("f_lost_updates", "p"),
    ("f_wrong_strides", "p p i i"),
    ("f_shuffle_outside", "p"),
    ("f_narrow_index", "p i i"),
    ("f_global_race", "p"),
    ("t_no_global_race", "p p"),
    ("f_undefined", "p p i"),
    ("f_local_overrun", "p p"),
    ("f_signed_overflow", "p p"),
    ("f_no_syncwarp", "p p"),
    ("f_shuffle_for_syncwarp", "p p"),
    ("t_syncwarp", "p p"),
    ("t_double", "p p l"),
    ("t_accumulate", "p p l"),
    ("t_count", "p"),
    ("t_wide_index", "p i i"),
    ("t_locate", "p p l 400"),
];

/// A module of the given PTX version and target.
pub fn ptx(version: &str, target: u32) -> CString {
    let mut text = format!(".version {version}\n.target sm_{target}\n.address_size 64\n");
    for (name, parameters) in ENTRIES {
        let parameters: Vec<String> = parameters
            .split(' ')
            .enumerate()
            .map(|(i, kind)| match kind {
                "p" | "l" => format!(".param .u64 {name}_param_{i}"),
                "i" => format!(".param .u32 {name}_param_{i}"),
                "f" => format!(".param .f32 {name}_param_{i}"),
                bytes => format!(".param .align 8 .b8 {name}_param_{i}[{bytes}]"),
            })
            .collect();
        let shared = if name.starts_with('f')
            || name.contains("sum")
            || name.contains("warp")
            || name.contains("count")
            || name.contains("histogram")
        {
            ".shared .align 4 .b8 space[256];\n"
        } else {
            ""
        };
        text += &format!(".visible .entry {name}(\n{}\n)\n{{\n{shared}ret;\n}}\n", parameters.join(",\n"));
    }
    // Parameters of one kernel that are not those of its source.
    text += ".visible .entry t_wrong(.param .u64 a)\n{\nret;\n}\n";
    CString::new(text).unwrap()
}

pub fn ok(status: Status) {
    assert_eq!(status, Status::SUCCESS);
}

impl Program {
    pub fn new(profile: Profile) -> Self {
        let session = Session::new(profile);
        let mut context = 0;
        let mut module = 0;
        // SAFETY: every pointer is to a variable of its type.
        unsafe {
            ok(cuInit(0));
            ok(cuDevicePrimaryCtxRetain(&raw mut context, 0));
            ok(cuCtxSetCurrent(context));
            ok(cuModuleLoadData(&raw mut module, ptx("7.0", 75).as_ptr()));
        }
        Program { session, module }
    }

    pub fn alloc(&self, bytes: usize) -> u64 {
        let mut address = 0;
        // SAFETY: as above.
        ok(unsafe { cuMemAlloc_v2(&raw mut address, bytes) });
        address
    }

    pub fn pinned(&self, bytes: usize) -> u64 {
        let mut address = 0;
        // SAFETY: as above.
        ok(unsafe { cuMemHostAlloc(&raw mut address, bytes, 0) });
        address
    }

    pub fn upload<T: Copy>(&self, data: &[T]) -> u64 {
        let bytes = size_of_val(data);
        let address = self.alloc(bytes);
        // SAFETY: the slice has so many bytes.
        ok(unsafe { cuMemcpyHtoD_v2(address, data.as_ptr() as usize, bytes) });
        address
    }

    pub fn download<T: Copy + Default>(&self, address: u64, count: usize) -> Vec<T> {
        let mut data = vec![T::default(); count];
        // SAFETY: the vector has so many bytes, of a type for which any are fine.
        ok(unsafe { cuMemcpyDtoH_v2(data.as_mut_ptr() as usize, address, size_of_val(data.as_slice())) });
        data
    }

    pub fn function(&self, name: &CStr) -> usize {
        let mut function = 0;
        // SAFETY: as above.
        ok(unsafe { cuModuleGetFunction(&raw mut function, self.module, name.as_ptr()) });
        function
    }

    /// Launches in `stream`; the arguments are as many as the kernel has.
    pub fn launch(&self, name: &CStr, (grid, block, shared): (u32, u32, u32), stream: usize, arguments: &[Argument]) {
        ok(self.try_launch(self.function(name), ([grid, 1, 1], [block, 1, 1], shared), stream, arguments));
    }

    pub fn try_launch(
        &self,
        function: usize,
        (grid, block, shared): ([u32; 3], [u32; 3], u32),
        stream: usize,
        arguments: &[Argument],
    ) -> Status {
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(|one| one.0.as_ptr().cast_mut().cast()).collect();
        let [[gx, gy, gz], [bx, by, bz]] = [grid, block];
        // SAFETY: a pointer per parameter, to a value of its size.
        unsafe { cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, pointers.as_mut_ptr(), null_mut()) }
    }

    pub fn stream(&self, flags: u32) -> usize {
        let mut stream = 0;
        // SAFETY: as above.
        ok(unsafe { cuStreamCreate(&raw mut stream, flags) });
        stream
    }

    /// An event that is recorded in `stream`.
    pub fn event(&self, stream: usize) -> usize {
        let mut event = 0;
        // SAFETY: as above.
        unsafe {
            ok(cuEventCreate(&raw mut event, 2));
            ok(cuEventRecord(event, stream));
        }
        event
    }

    pub fn findings(&self) -> Vec<Finding> {
        self.session.findings()
    }

    pub fn silent(&self) {
        let findings = self.findings();
        assert!(findings.is_empty(), "{findings:#?}");
    }

    /// There is one finding, of this kind, that has all these words in it.
    pub fn found(&self, kind: Kind, words: &[&str]) {
        let findings = self.findings();
        let [finding] = findings.as_slice() else { panic!("{findings:#?}") };
        assert_eq!(finding.kind, kind, "{finding}");
        for word in words {
            assert!(finding.text.contains(word), "`{word}` is not in: {finding}");
        }
    }
}

/// An argument's bytes, at an address that suits every type.
pub struct Argument(Vec<u128>);

/// The bytes of a value.
pub fn arg<T: Copy>(value: T) -> Argument {
    let mut bytes = vec![0u128; size_of::<T>().div_ceil(16)];
    // SAFETY: there is room for the value.
    unsafe { bytes.as_mut_ptr().cast::<T>().write(value) };
    Argument(bytes)
}
