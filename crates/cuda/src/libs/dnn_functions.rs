// The functions of cuDNN that Kiln calls, for two readers: `dnn.rs` makes a table of them, and the simulator's coverage
// a list of their names.

functions! {
    /// cuDNN. One per process; one handle per device.
    Cudnn: cudnnStatus_t as c_uint, sys;
    create = cudnnCreate(handle: *mut cudnnHandle_t);
    set_stream = cudnnSetStream(handle: cudnnHandle_t, stream: cudaStream_t);
    destroy_descriptor = cudnnBackendDestroyDescriptor(desc: cudnnBackendDescriptor_t);
    finalize = cudnnBackendFinalize(desc: cudnnBackendDescriptor_t);
    execute = cudnnBackendExecute(
        handle: cudnnHandle_t,
        plan: cudnnBackendDescriptor_t,
        pack: cudnnBackendDescriptor_t,
    );
    create_descriptor = cudnnBackendCreateDescriptor(
        kind: cudnnBackendDescriptorType_t,
        desc: *mut cudnnBackendDescriptor_t,
    );
    set_attribute = cudnnBackendSetAttribute(
        desc: cudnnBackendDescriptor_t,
        name: cudnnBackendAttributeName_t,
        kind: cudnnBackendAttributeType_t,
        count: i64,
        values: *const c_void,
    );
    get_attribute = cudnnBackendGetAttribute(
        desc: cudnnBackendDescriptor_t,
        name: cudnnBackendAttributeName_t,
        kind: cudnnBackendAttributeType_t,
        requested: i64,
        count: *mut i64,
        values: *mut c_void,
    );
}
