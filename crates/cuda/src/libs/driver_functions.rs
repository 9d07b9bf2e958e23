// The functions of the CUDA driver that Kiln calls, for two readers: `driver.rs` makes a table of them, the simulator's coverage
// a list of their names.

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
