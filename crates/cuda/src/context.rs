//! One device's context, which every thread makes current before it calls the driver.

use std::{
    cell::Cell,
    ffi::{c_char, c_int},
};

use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute, CUstream};
use kiln_backend::{Error, ErrorKind, Result};

use crate::{error::CudaError, libs::Driver, plan_cache::DeviceKind};

/// `CUDA_ERROR_OUT_OF_MEMORY`
pub(crate) const OUT_OF_MEMORY: u32 = 2;

thread_local! {
    /// The context that this thread made current last, as a number.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The primary context of a device, which all code in the process shares. It lives as long as the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) driver: &'static Driver,
    pub(crate) index: usize,
    device: CUdevice,
    raw: CUcontext,
}

// SAFETY: the driver may be called from any thread; a context is a handle that any thread may set.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// Properties of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name, e.g. `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Its compute capability, e.g. `(9, 0)`.
    pub compute_capability: (u32, u32),
    /// Its memory in bytes.
    pub total_memory: usize,
    /// Its streaming multiprocessors.
    pub multiprocessors: u32,
    /// The CUDA version that the driver supports, e.g. 12080 for 12.8.
    pub driver_version: i32,
}

pub(crate) fn unavailable(index: usize, reason: impl Into<String>) -> Error {
    ErrorKind::DeviceUnavailable { device: format!("cuda:{index}"), reason: reason.into() }.into()
}

impl Context {
    /// Opens a device.
    ///
    /// # Errors
    /// If there is no such device, or the driver cannot use it.
    pub(crate) fn open(driver: &'static Driver, index: usize) -> Result<Context> {
        let fail = |call: &str, code| unavailable(index, format!("{call}: {}", driver.describe(code)));
        let count = device_count(driver).map_err(|code| fail("cuDeviceGetCount", code))?;
        let ordinal = i32::try_from(index).ok().filter(|_| index < count);
        let Some(ordinal) = ordinal else {
            return Err(unavailable(index, format!("the driver sees {count} of them, numbered from 0")));
        };
        let (mut device, mut raw) = (0, std::ptr::null_mut());
        // SAFETY: the driver is initialized; both calls write through valid pointers.
        unsafe {
            match (driver.device_get)(&raw mut device, ordinal) {
                0 => {}
                code => return Err(fail("cuDeviceGet", code)),
            }
            match (driver.primary_ctx_retain)(&raw mut raw, device) {
                0 => {}
                code => return Err(fail("cuDevicePrimaryCtxRetain", code)),
            }
        }
        let context = Context { driver, index, device, raw };
        context.bind()?;
        Ok(context)
    }

    /// The driver's handle.
    pub(crate) fn raw(&self) -> CUcontext {
        self.raw
    }

    /// Makes the context current on the calling thread; costs a comparison if it already is. (A library that changes
    /// the thread's context must restore it, as libraries do.)
    pub(crate) fn bind(&self) -> Result<()> {
        if CURRENT.get() == self.raw as usize {
            return Ok(());
        }
        // SAFETY: a context that is never released.
        self.check("cuCtxSetCurrent", unsafe { (self.driver.ctx_set_current)(self.raw) })?;
        CURRENT.set(self.raw as usize);
        Ok(())
    }

    /// A new stream, which neither waits for nor blocks the process-wide default stream.
    pub(crate) fn new_stream(&self) -> Result<CUstream> {
        const NON_BLOCKING: u32 = 1;
        self.bind()?;
        let mut stream = std::ptr::null_mut();
        // SAFETY: writes the handle.
        let code = unsafe { (self.driver.stream_create)(&raw mut stream, NON_BLOCKING) };
        self.check("cuStreamCreate", code).map(|()| stream)
    }

    /// Turns a status code into an error that names the call.
    pub(crate) fn check(&self, call: &'static str, code: u32) -> Result<()> {
        check(self.driver, self.index, call, code)
    }

    /// The error for when the driver finds no memory for what it loads by itself: a module, or a kernel at its first
    /// launch.
    pub(crate) fn lacks_memory(&self, what: &str) -> Error {
        let detail = format!("cannot load {what}: {}", self.driver.describe(OUT_OF_MEMORY));
        ErrorKind::OutOfMemory { device: format!("cuda:{}", self.index), requested: 0, detail }.into()
    }

    /// # Errors
    /// If a call fails.
    pub(crate) fn info(&self) -> Result<DeviceInfo> {
        DeviceInfo::read(self.driver, self.index, self.device)
    }
}

impl DeviceInfo {
    /// The properties that plans of convolutions depend on.
    pub(crate) fn kind(&self) -> DeviceKind {
        let DeviceInfo { name, compute_capability, multiprocessors, .. } = self;
        DeviceKind { name: name.clone(), compute_capability: *compute_capability, multiprocessors: *multiprocessors }
    }

    /// The properties of the device with this index, which need not be open.
    ///
    /// # Errors
    /// If there is no such device, or a call fails.
    pub(crate) fn of(driver: &Driver, index: usize) -> Result<DeviceInfo> {
        let ordinal = c_int::try_from(index).map_err(|_| unavailable(index, "there is no device with this index"))?;
        let mut device = 0;
        // SAFETY: the driver is initialized; writes one number.
        check(driver, index, "cuDeviceGet", unsafe { (driver.device_get)(&raw mut device, ordinal) })?;
        DeviceInfo::read(driver, index, device)
    }

    fn read(driver: &Driver, index: usize, device: CUdevice) -> Result<DeviceInfo> {
        use CUdevice_attribute as A;
        let attribute = |attribute: CUdevice_attribute| -> Result<u32> {
            let mut value = 0;
            // SAFETY: a valid device and pointer.
            let code = unsafe { (driver.device_get_attribute)(&raw mut value, attribute, device) };
            check(driver, index, "cuDeviceGetAttribute", code)?;
            Ok(value.max(0) as u32)
        };
        let mut name = [0u8; 256];
        let mut total_memory = 0;
        // SAFETY: at most 255 characters and a zero are written.
        unsafe {
            let code = (driver.device_get_name)(name.as_mut_ptr().cast::<c_char>(), 256, device);
            check(driver, index, "cuDeviceGetName", code)?;
            let code = (driver.device_total_mem)(&raw mut total_memory, device);
            check(driver, index, "cuDeviceTotalMem", code)?;
        }
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        Ok(DeviceInfo {
            name: String::from_utf8_lossy(&name[..end]).into_owned(),
            compute_capability: (
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            total_memory,
            multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            driver_version: driver.version(),
        })
    }
}

/// Turns a status code into an error that names the call.
fn check(driver: &Driver, device: usize, call: &'static str, code: u32) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(CudaError::Driver { device, call, status: driver.describe(code) }.into()),
    }
}

/// How many devices the driver sees, or its error status.
pub(crate) fn device_count(driver: &Driver) -> Result<usize, u32> {
    let mut count = 0;
    // SAFETY: writes one integer.
    match unsafe { (driver.device_get_count)(&raw mut count) } {
        0 => Ok(count.max(0) as usize),
        code => Err(code),
    }
}
