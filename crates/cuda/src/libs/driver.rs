//! The functions of the CUDA driver that Kiln calls.

use std::{
    ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void},
    path::PathBuf,
};

use cudarc::driver::sys::{
    self, CUDA_MEMCPY3D, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUgraph,
    CUgraphExec, CUgraphNode, CUjit_option, CUmodule, CUresult, CUstream, CUstreamCaptureMode,
};

use kiln_dylib::Open;

use super::{functions, search};

functions! {
    /// The driver. One per process.
    Driver: CUresult as c_uint, sys;
    init = cuInit(flags: c_uint);
    driver_get_version = cuDriverGetVersion(version: *mut c_int);
    device_get_count = cuDeviceGetCount(count: *mut c_int);
    device_get = cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    device_get_name = cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice);
    device_get_attribute = cuDeviceGetAttribute(value: *mut c_int, attribute: CUdevice_attribute, device: CUdevice);
    device_total_mem = cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    primary_ctx_retain = cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    ctx_set_current = cuCtxSetCurrent(context: CUcontext);
    ctx_synchronize = cuCtxSynchronize();
    mem_get_info = cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    mem_alloc = cuMemAlloc_v2(pointer: *mut CUdeviceptr, bytes: usize);
    mem_free = cuMemFree_v2(pointer: CUdeviceptr);
    mem_alloc_async = cuMemAllocAsync(pointer: *mut CUdeviceptr, bytes: usize, stream: CUstream);
    mem_free_async = cuMemFreeAsync(pointer: CUdeviceptr, stream: CUstream);
    mem_host_alloc = cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, flags: c_uint);
    mem_free_host = cuMemFreeHost(pointer: *mut c_void);
    memcpy_htod_async = cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
    memcpy_dtoh_async = cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
    memset_d8_async = cuMemsetD8Async(to: CUdeviceptr, value: c_uchar, bytes: usize, stream: CUstream);
    stream_create = cuStreamCreate(stream: *mut CUstream, flags: c_uint);
    stream_query = cuStreamQuery(stream: CUstream);
    stream_synchronize = cuStreamSynchronize(stream: CUstream);
    stream_wait_event = cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
    stream_begin_capture = cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode);
    stream_end_capture = cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    thread_exchange_stream_capture_mode = cuThreadExchangeStreamCaptureMode(mode: *mut CUstreamCaptureMode);
    graph_create = cuGraphCreate(graph: *mut CUgraph, flags: c_uint);
    graph_add_memcpy_node = cuGraphAddMemcpyNode(
        node: *mut CUgraphNode,
        graph: CUgraph,
        dependencies: *const CUgraphNode,
        count: usize,
        params: *const CUDA_MEMCPY3D,
        context: CUcontext,
    );
    graph_add_child_graph_node = cuGraphAddChildGraphNode(
        node: *mut CUgraphNode,
        graph: CUgraph,
        dependencies: *const CUgraphNode,
        count: usize,
        child: CUgraph,
    );
    graph_instantiate = cuGraphInstantiateWithFlags(exec: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong);
    graph_upload = cuGraphUpload(exec: CUgraphExec, stream: CUstream);
    graph_exec_memcpy_node_set_params = cuGraphExecMemcpyNodeSetParams(
        exec: CUgraphExec,
        node: CUgraphNode,
        params: *const CUDA_MEMCPY3D,
        context: CUcontext,
    );
    graph_launch = cuGraphLaunch(exec: CUgraphExec, stream: CUstream);
    graph_exec_destroy = cuGraphExecDestroy(exec: CUgraphExec);
    graph_destroy = cuGraphDestroy(graph: CUgraph);
    event_create = cuEventCreate(event: *mut CUevent, flags: c_uint);
    event_record = cuEventRecord(event: CUevent, stream: CUstream);
    event_query = cuEventQuery(event: CUevent);
    event_synchronize = cuEventSynchronize(event: CUevent);
    event_elapsed_time = cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent);
    event_destroy = cuEventDestroy_v2(event: CUevent);
    module_load_data = cuModuleLoadDataEx(
        module: *mut CUmodule,
        image: *const c_void,
        options: c_uint,
        names: *mut CUjit_option,
        values: *mut *mut c_void,
    );
    module_get_function = cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    launch_kernel = cuLaunchKernel(
        function: CUfunction,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: CUstream,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    );
    [unchecked] get_error_name = cuGetErrorName(code: c_uint, name: *mut *const c_char);
    [unchecked] get_error_string = cuGetErrorString(code: c_uint, text: *mut *const c_char);
}

impl Driver {
    /// Finds, opens and initializes the driver.
    ///
    /// # Errors
    /// The reason, if there is none, or none that works.
    pub(crate) fn open() -> Result<Driver, String> {
        let driver = Driver::resolve(Open::new(&search::driver(), |_| Ok(()))?)?;
        // SAFETY: has no requirements; it must precede every other call.
        match unsafe { (driver.init)(0) } {
            0 => Ok(driver),
            code => Err(format!(
                "the NVIDIA driver {} did not start: cuInit: {}. To fix it, {}",
                driver.file().display(),
                driver.describe(code),
                advice(code)
            )),
        }
    }

    /// The CUDA version that the driver supports, e.g. 12080.
    pub(crate) fn version(&self) -> i32 {
        let mut version = 0;
        // SAFETY: writes one integer. It cannot fail with a valid pointer; 0 would count as old.
        unsafe { (self.driver_get_version)(&raw mut version) };
        version
    }

    /// The file that it was loaded from.
    pub(crate) fn file(&self) -> PathBuf {
        self.open.file("cuInit")
    }

    /// Name and text of a status code, e.g. `CUDA_ERROR_OUT_OF_MEMORY (2): out of memory`.
    pub(crate) fn describe(&self, code: u32) -> String {
        let text = |get: unsafe extern "C" fn(c_uint, *mut *const c_char) -> c_uint| {
            let mut text = std::ptr::null();
            // SAFETY: any number is allowed; on success the pointer is a string that is never freed.
            unsafe {
                (get(code, &raw mut text) == 0 && !text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy())
            }
        };
        match (text(self.get_error_name), text(self.get_error_string)) {
            (Some(name), Some(text)) => format!("{name} ({code}): {text}"),
            _ => format!("an error that the driver has no name for ({code})"),
        }
    }
}

/// How to fix a driver that does not start.
fn advice(code: u32) -> &'static str {
    match code {
        34 => "take the toolkit's `stubs` off LD_LIBRARY_PATH: they are for linking, and no driver",
        100 => {
            "check that `nvidia-smi` lists a GPU, that CUDA_VISIBLE_DEVICES does not hide it, and, in a container, that it \
             was started with GPU access (e.g. `docker run --gpus all`)"
        }
        802 => {
            "start NVIDIA's fabric manager (`systemctl start nvidia-fabricmanager`), which GPUs behind NVSwitch need"
        }
        803 => {
            "bring the driver's library and its kernel module to one version: reboot after an update; in a container, use \
             the host's library"
        }
        804 => {
            "take the folder of `cuda-compat` off LD_LIBRARY_PATH: this GPU only works with its driver's own library"
        }
        _ => "check `nvidia-smi`, and that the kernel module for compute is loaded (`modprobe nvidia_uvm`)",
    }
}
