//! A CUDA device: its stream, memory and libraries, and how it is opened.

use std::{ffi::c_void, fmt, sync::OnceLock};

use kiln_backend::{DType, Error, ErrorKind, Result, unless_capturing};
use parking_lot::Mutex;

use crate::{
    attention::plans::AttentionPlans,
    capture::{recording, streams::CaptureStreams},
    context::{self, Context, DeviceInfo, unavailable},
    conv::{dnn::Dnn, padded_channels::PaddedChannels},
    copies::MIN_COPY_STREAM_BYTES,
    error::CudaError,
    gemm::lt::Lt,
    generator::Generator,
    launch::Config,
    libs::{self, Driver, Libraries},
    memory::{Block, CudaBuffer, DeviceMemory},
    modules::Kernels,
    page_locked::Pages,
    params::{GeneratorState, Status},
    pinned::{Downloads, Record, Uploads},
    stream::{Stream, WAITS},
};

/// A GPU as a device of tensors. It lives as long as the process.
pub struct CudaBackend(pub(crate) &'static Device);

impl CudaBackend {
    /// The index that the driver gives it.
    #[must_use]
    pub fn index(&self) -> usize {
        self.0.index()
    }

    /// Which image of Kiln's kernels the device loads, as text for reports: SASS of its architecture, or PTX that the
    /// driver compiles, in which case the text says why, where the driver caches the result, and how to avoid it.
    #[must_use]
    pub fn kernel_image(&self) -> String {
        self.0.kernels.describe()
    }

    /// Name, compute capability, memory.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }
}

impl fmt::Debug for CudaBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaBackend(cuda:{}, {})", self.index(), self.info().name)
    }
}

/// The state of an open device.
pub(crate) struct Device {
    info: DeviceInfo,
    pub(crate) stream: &'static Stream,
    pub(crate) memory: &'static DeviceMemory,
    pub(crate) uploads: Uploads,
    pub(crate) pages: Pages,
    downloads: Mutex<Downloads>,
    status: StatusRecord,
    pub(crate) generator: Generator,
    pub(crate) capture_streams: CaptureStreams,
    kernels: Kernels,
    libraries: &'static Libraries,
    products: OnceLock<Lt>,
    convolutions: OnceLock<Dnn<4, 2>>,
    volume_convolutions: OnceLock<Dnn<5, 3>>,
    attention_plans: OnceLock<AttentionPlans>,
    pub(crate) padded_channels: PaddedChannels,
    /// Held while one of these is made.
    making: Mutex<()>,
    /// Why nothing that the device has computed can be trusted any more.
    pub(crate) distrusted: OnceLock<String>,
}

/// The device's record of invalid values that kernels found in memory.
struct StatusRecord {
    address: u64,
    /// Owns the memory at that address, and that of the generator after it.
    _memory: Block,
    /// Operations that may have written it since it was last read, each with the status code that it writes.
    writers: Mutex<Vec<(u32, &'static str)>>,
}

/// The most devices that one process uses.
const MAX_DEVICES: usize = 64;

static DEVICES: [OnceLock<CudaBackend>; MAX_DEVICES] = [const { OnceLock::new() }; MAX_DEVICES];

/// The driver, which is searched for once.
pub(crate) fn driver() -> Result<&'static Driver, &'static str> {
    static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
    DRIVER.get_or_init(Driver::open).as_ref().map_err(String::as_str)
}

/// The GPU with this index, opened at the first call.
///
/// # Errors
/// [`ErrorKind::DeviceUnavailable`](kiln_backend::ErrorKind::DeviceUnavailable) with the reason: no driver, no such
/// device, or a build without kernels.
pub fn backend(index: usize) -> Result<&'static CudaBackend> {
    static OPENING: Mutex<()> = Mutex::new(());
    let Some(device) = DEVICES.get(index) else {
        return Err(unavailable(index, format!("one process uses at most {MAX_DEVICES} devices")));
    };
    if let Some(open) = device.get() {
        return Ok(open);
    }
    let _one_at_a_time = OPENING.lock();
    if let Some(open) = device.get() {
        return Ok(open);
    }
    // Buffers on any thread refer to their device, so it is never dropped.
    let opened: &'static Device = Box::leak(Box::new(Device::open(index)?));
    Ok(device.get_or_init(|| CudaBackend(opened)))
}

/// The device with this index, if it has been opened.
pub(crate) fn opened(index: usize) -> Option<&'static CudaBackend> {
    DEVICES.get(index)?.get()
}

/// How many GPUs there are; 0 without a driver.
#[must_use]
pub fn device_count() -> usize {
    driver().ok().and_then(|driver| context::device_count(driver).ok()).unwrap_or(0)
}

impl Device {
    fn open(index: usize) -> Result<Device> {
        let driver = driver().map_err(|reason| unavailable(index, reason))?;
        let context = Context::open(driver, index)?;
        let info = context.info()?;
        let kernels = Kernels::new(info.compute_capability, info.driver_version);
        let kernels = kernels.map_err(|reason| unavailable(index, reason))?;
        let libraries = libs::libraries(driver).map_err(|reason| unavailable(index, reason))?;
        // They live as long as the process, as their device does.
        let stream: &'static Stream = Box::leak(Box::new(Stream::new(context)?));
        let memory: &'static DeviceMemory = Box::leak(Box::new(DeviceMemory::new(stream)?));
        // One allocation for both records.
        const RECORDS: usize = size_of::<Status>() + size_of::<GeneratorState>();
        let records = memory.block(RECORDS)?;
        let record = records.address();
        // SAFETY: the allocation has this many bytes.
        unsafe { stream.fill_bytes(record, 0, RECORDS)? };
        Ok(Device {
            info,
            stream,
            memory,
            uploads: Uploads::small(),
            pages: Pages::new(context),
            downloads: Mutex::default(),
            status: StatusRecord { address: record, writers: Mutex::default(), _memory: records },
            generator: Generator::new(index, record + size_of::<Status>() as u64),
            capture_streams: CaptureStreams::default(),
            kernels,
            libraries,
            products: OnceLock::new(),
            convolutions: OnceLock::new(),
            volume_convolutions: OnceLock::new(),
            attention_plans: OnceLock::new(),
            padded_channels: PaddedChannels::default(),
            making: Mutex::new(()),
            distrusted: OnceLock::new(),
        })
    }

    pub(crate) fn index(&self) -> usize {
        self.stream.context.index
    }

    /// Queues the kernel with this index.
    ///
    /// # Safety
    /// As for [`Stream::launch`].
    pub(crate) unsafe fn start(&self, number: usize, config: Config, arguments: &mut [*mut c_void]) -> Result<()> {
        let launch = || {
            let kernel = self.kernels.get(&self.stream.context, number)?;
            // SAFETY: by this function's contract.
            unsafe { self.stream.launch(kernel, config.grid, config.block, &mut *arguments) }
        };
        self.memory
            .with_room(launch, |result| result.as_ref().is_err_and(is_out_of_memory))
            .map_err(|error| if is_out_of_memory(&error) { self.memory.with_figures(error) } else { error })
    }

    /// cuBLASLt on this device; its handle is made when the first product needs it.
    pub(crate) fn products(&self) -> Result<&Lt> {
        if let Some(made) = self.products.get() {
            return Ok(made);
        }
        let library = self.libraries.cublas_lt.as_ref().map_err(|reason| unavailable(self.index(), reason.as_str()))?;
        let _one_at_a_time = self.making.lock();
        self.stream.context.bind()?;
        let made = match self.products.get() {
            Some(made) => return Ok(made),
            None => Lt::new(library, self.memory)?,
        };
        Ok(self.products.get_or_init(|| made))
    }

    /// cuDNN's convolutions of images on this device; its handle is made when the first convolution needs it.
    pub(crate) fn convolutions(&self) -> Result<&Dnn<4, 2>> {
        self.dnn(&self.convolutions)
    }

    /// cuDNN's convolutions of volumes on this device, with a handle of their own.
    pub(crate) fn volume_convolutions(&self) -> Result<&Dnn<5, 3>> {
        self.dnn(&self.volume_convolutions)
    }

    fn dnn<'a, const R: usize, const A: usize>(&self, kept: &'a OnceLock<Dnn<R, A>>) -> Result<&'a Dnn<R, A>> {
        if let Some(made) = kept.get() {
            return Ok(made);
        }
        let library = self.libraries.cudnn.as_ref().map_err(|reason| unavailable(self.index(), reason.as_str()))?;
        let _one_at_a_time = self.making.lock();
        self.stream.context.bind()?;
        let made = match kept.get() {
            Some(made) => return Ok(made),
            None => Dnn::new(library, self.stream, self.memory, &self.info)?,
        };
        Ok(kept.get_or_init(|| made))
    }

    /// cuDNN's attention on this device; its handle is made when it is first needed.
    pub(crate) fn attention_plans(&self) -> Result<&AttentionPlans> {
        if let Some(made) = self.attention_plans.get() {
            return Ok(made);
        }
        let library = self.libraries.cudnn.as_ref().map_err(|reason| unavailable(self.index(), reason.as_str()))?;
        let _one_at_a_time = self.making.lock();
        self.stream.context.bind()?;
        let made = match self.attention_plans.get() {
            Some(made) => return Ok(made),
            None => AttentionPlans::new(library, self.stream, self.memory, &self.info)?,
        };
        Ok(self.attention_plans.get_or_init(|| made))
    }

    pub(crate) fn info(&self) -> &DeviceInfo {
        &self.info
    }

    pub(crate) fn libraries(&self) -> &'static Libraries {
        self.libraries
    }

    /// The state of the cache of plans, of convolutions and of attention, of those that this process uses if the cache is on.
    pub(crate) fn kept_plans(&self) -> impl Iterator<Item = (&'static str, String)> {
        let convolutions = self.convolutions.get().and_then(Dnn::kept_plans);
        let attention = self.attention_plans.get().and_then(AttentionPlans::kept_plans);
        let volumes = self.volume_convolutions.get().and_then(Dnn::kept_plans);
        [("convolutions", convolutions), ("convolutions of volumes", volumes), ("attention", attention)]
            .into_iter()
            .filter_map(|(of, text)| Some((of, text?)))
    }

    /// What the device's kernels are loaded from, for the report.
    pub(crate) fn loaded_kernels(&self) -> String {
        format!("{}: {}", self.kernels.loaded(), self.kernels.describe())
    }

    /// The address of the status record, for a kernel of `op` that may report the status `code`.
    pub(crate) fn status(&self, code: u32, op: &'static str) -> u64 {
        // If the launch is captured, each launch of the graph may write the record.
        if recording::writes_status(self.index(), (code, op)) {
            return self.status.address;
        }
        let mut writers = self.status.writers.lock();
        if !writers.contains(&(code, op)) {
            writers.push((code, op));
        }
        self.status.address
    }

    /// Scratch memory for the work that is queued next; drop it as soon as that is queued.
    pub(crate) fn scratch(&'static self, bytes: usize) -> Result<Block> {
        self.memory.block(bytes)
    }

    /// Uploads a whole number of elements, given as bytes.
    pub(crate) fn upload(&'static self, dtype: DType, bytes: &[u8]) -> Result<CudaBuffer> {
        unless_capturing("upload", "every launch of the capture would use the same values of the host")?;
        let len = bytes.len() / dtype.size();
        let bytes = &bytes[..len * dtype.size()];
        let direct = len > 0 && self.pages.hold(bytes);
        if direct || bytes.len() >= MIN_COPY_STREAM_BYTES {
            return Ok(CudaBuffer::from_block(dtype, len, self.memory.send(bytes, direct)?));
        }
        let buffer = CudaBuffer::new(self.memory, dtype, len)?;
        if len > 0 {
            // SAFETY: the buffer was made for as many bytes.
            unsafe { self.send_small(bytes, buffer.address()?)? };
        }
        Ok(buffer)
    }

    /// Queues a copy of a few bytes on the compute stream.
    ///
    /// # Safety
    /// `to` is the address of as many bytes that work queued from now on uses.
    pub(crate) unsafe fn send_small(&self, bytes: &[u8], to: u64) -> Result<()> {
        // SAFETY: by this function's contract.
        unsafe { self.uploads.send(self.stream, bytes, to) }
    }

    /// Waits for the device, reads `bytes` from it (the caller has checked the address), and returns any error that
    /// kernels reported.
    ///
    /// # Safety
    /// `from` is the address of as many bytes as are read.
    pub(crate) unsafe fn receive(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        unless_capturing(if bytes.is_empty() { "synchronize" } else { "download" }, WAITS)?;
        let mut downloads = self.downloads.lock();
        let writers = std::mem::take(&mut *self.status.writers.lock());
        if writers.is_empty() {
            // SAFETY: by this function's contract.
            unsafe { downloads.receive::<0>(self.stream, from, bytes, None)? };
            return self.trusted();
        }
        let mut record: Record<{ size_of::<Status>() }> = (self.status.address, [0; size_of::<Status>()]);
        // SAFETY: as above; the record has its own allocation.
        unsafe { downloads.receive(self.stream, from, bytes, Some(&mut record))? };
        let (code, value, bound) = status_fields(&record.1);
        if code == 0 {
            return self.trusted();
        }
        // SAFETY: the record's own allocation.
        unsafe { self.stream.fill_bytes(self.status.address, 0, size_of::<Status>())? };
        Err(status_error(&writers, code, value, bound))
    }

    /// An error if collectives were aborted, after a wait that their abort may have ended.
    fn trusted(&self) -> Result<()> {
        match self.distrusted.get() {
            None => Ok(()),
            Some(reason) => Err(CudaError::Undefined { device: self.index(), reason: reason.clone() }.into()),
        }
    }
}

fn is_out_of_memory(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::OutOfMemory { .. })
}

/// Code, value and bound of a [`Status`] in memory.
fn status_fields(bytes: &[u8; size_of::<Status>()]) -> (u32, i64, i64) {
    let mut fields = [0u64; 3];
    for (field, bytes) in fields.iter_mut().zip(bytes.chunks_exact(8)) {
        *field = bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    }
    (fields[0] as u32, fields[1] as i64, fields[2] as i64)
}

/// The typed error for a status record. If several operations may have written it, it names all of them.
fn status_error(writers: &[(u32, &'static str)], code: u32, value: i64, bound: i64) -> Error {
    let mut names = writers.iter().filter(|(writes, _)| *writes == code).map(|&(_, op)| op);
    let op = names.next().unwrap_or("kernel");
    let others: Vec<&str> = names.collect();
    let also = if others.is_empty() { String::new() } else { format!(" (or it was {})", others.join(", ")) };
    let size = usize::try_from(bound).unwrap_or(0);
    match code {
        Status::CLASS => Error::index(op, value, size, format!("the classes{also}")),
        Status::EXPONENT => Error::argument(op, format!("integers to negative powers are not integers{also}")),
        Status::DIVISOR => Error::argument(op, format!("division by zero{also}")),
        _ => Error::index(op, value, size, format!("the indexed dimension{also}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_typed_errors() {
        let mut bytes = [0; size_of::<Status>()];
        bytes[0] = Status::INDEX as u8;
        bytes[8..16].copy_from_slice(&(-3i64).to_ne_bytes());
        bytes[16..].copy_from_slice(&10i64.to_ne_bytes());
        let (code, value, bound) = status_fields(&bytes);
        let writers = [(Status::CLASS, "cross_entropy"), (Status::INDEX, "gather"), (Status::INDEX, "index_select")];
        let error = status_error(&writers, code, value, bound);
        assert!(matches!(error.kind(), ErrorKind::IndexOutOfRange { op: "gather", index: -3, size: 10, .. }));
        assert!(error.to_string().contains("index_select"), "{error}");
        let error = status_error(&writers, Status::CLASS, 12, 10);
        assert!(matches!(error.kind(), ErrorKind::IndexOutOfRange { op: "cross_entropy", index: 12, .. }));
        let error = status_error(&[(Status::DIVISOR, "remainder")], Status::DIVISOR, 1, 0);
        assert!(matches!(error.kind(), ErrorKind::Argument { op: "remainder", .. }));
    }

    #[test]
    fn a_machine_without_a_device_has_an_error_and_no_panic() {
        // No machine has this many devices.
        let error = backend(MAX_DEVICES - 1).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::DeviceUnavailable { .. }), "{error}");
        assert!(backend(usize::MAX).is_err());
        assert!(device_count() < MAX_DEVICES);
    }
}
