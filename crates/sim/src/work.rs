//! The work of queued operations: kernels, products, convolutions, attention, copies, fills, frees.
use crate::blas::work::Product;
use crate::dnn::attention::work::AttentionCall;
use crate::dnn::work::Convolution;
use crate::engine::{self, Kernel, Launch, Outcome, Range};
use crate::nccl::work::Collective;
use crate::profile::{Order, Profile};

/// Where a copy reads or writes.
#[derive(Clone)]
pub enum Place {
    /// Device memory, or pinned host memory.
    Arena(u64),
    /// Ordinary host memory, which is valid until the call returns.
    Pageable(usize),
    /// The contents of ordinary memory at the time of the call.
    Staged(Vec<u8>),
}

/// A kernel launch, with a copy of its arguments.
#[derive(Clone)]
pub struct KernelWork {
    pub kernel: &'static Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub shared_limit: u32,
    /// The parameters, each at a multiple of 16 bytes.
    pub arguments: Vec<u128>,
}

/// The work of an operation.
#[derive(Clone)]
pub enum Work {
    /// A marker: an event, or a wait for one.
    Mark(Option<usize>),
    Kernel(Box<KernelWork>),
    /// A product of cuBLASLt.
    Product(Box<Product>),
    /// A convolution of cuDNN.
    Convolution(Box<Convolution>),
    /// Attention of cuDNN, or its gradient.
    Attention(Box<AttentionCall>),
    /// A collective of NCCL.
    Collective(Box<Collective>),
    Copy {
        from: Place,
        to: Place,
        bytes: usize,
    },
    Fill {
        to: u64,
        pattern: [u8; 4],
        width: usize,
        bytes: usize,
    },
    Allocate(u64),
    Free(u64),
    Call {
        function: unsafe extern "C" fn(*mut std::ffi::c_void),
        data: usize,
    },
}

/// The range of an operation's operand.
fn range(begin: u64, bytes: usize) -> Vec<Range> {
    if bytes == 0 { Vec::new() } else { vec![Range { begin, end: begin + bytes as u64 }] }
}

impl Place {
    fn reads(&self, bytes: usize) -> Vec<Range> {
        match self {
            Place::Arena(address) => range(*address, bytes),
            Place::Pageable(_) | Place::Staged(_) => Vec::new(),
        }
    }
}

impl Work {
    /// The ranges that copies, fills and products read and write; those of kernels are only known after they have run.
    pub fn ranges(&self) -> (Vec<Range>, Vec<Range>) {
        match self {
            Work::Copy { from, to, bytes } => (from.reads(*bytes), to.reads(*bytes)),
            Work::Fill { to, bytes, .. } => (Vec::new(), range(*to, *bytes)),
            Work::Product(product) => product.ranges(),
            Work::Convolution(convolution) => convolution.ranges(),
            Work::Attention(attention) => attention.ranges(),
            Work::Collective(collective) => collective.ranges(),
            Work::Mark(_) | Work::Kernel(_) | Work::Allocate(_) | Work::Free(_) | Work::Call { .. } => {
                (Vec::new(), Vec::new())
            }
        }
    }

    /// Whether it is a collective that waits for other ranks.
    pub fn is_waiting(&self) -> bool {
        matches!(self, Work::Collective(collective) if collective.is_waiting())
    }

    /// Whether it is a collective that has sent its values, and has not ended.
    pub fn has_begun(&self) -> bool {
        matches!(self, Work::Collective(collective) if collective.number.is_some())
    }

    /// Whether it may access `begin..end`, as far as is known before it runs.
    pub fn uses(&self, begin: u64, end: u64) -> bool {
        match self {
            Work::Kernel(work) => work.pointers().any(|pointer| (begin..end).contains(&pointer)),
            other => {
                let (reads, writes) = other.ranges();
                reads.iter().chain(&writes).any(|range| range.begin < end && range.end > begin)
            }
        }
    }
}

impl KernelWork {
    /// Copies the arguments of a launch.
    ///
    /// # Safety
    /// `parameters` points to a pointer to a value of the right size for each parameter of `kernel`.
    pub unsafe fn pack(kernel: &Kernel, parameters: *const *const u8) -> Vec<u128> {
        let mut packed = Vec::new();
        for (i, &size) in kernel.sizes().iter().enumerate() {
            let at = packed.len();
            packed.resize(at + (size as usize).div_ceil(16), 0u128);
            // SAFETY: the caller's promise, and the room that was just made.
            unsafe {
                let value = *parameters.add(i);
                std::ptr::copy_nonoverlapping(value, packed[at..].as_mut_ptr().cast::<u8>(), size as usize);
            }
        }
        packed
    }

    /// The offset of each parameter in the packed arguments.
    fn offsets(&self) -> impl Iterator<Item = usize> + '_ {
        self.kernel.sizes().iter().scan(0, |next, size| {
            let at = *next;
            *next += (*size as usize).div_ceil(16);
            Some(at)
        })
    }

    /// The values of the pointer parameters.
    pub fn pointers(&self) -> impl Iterator<Item = u64> + '_ {
        self.offsets()
            .zip(self.kernel.pointers())
            .filter(|(_, pointer)| *pointer)
            .map(|(at, _)| self.arguments[at] as u64)
    }

    /// All words of the arguments that could be addresses, including those inside structs.
    pub fn words(&self) -> impl Iterator<Item = u64> + '_ {
        self.arguments.iter().flat_map(|&word| [word as u64, (word >> 64) as u64])
    }

    /// Runs it, with the memory that it may access and that of other devices.
    pub fn run(&mut self, [live, foreign]: [&[Range]; 2], profile: &Profile, seed: u64) -> Outcome {
        let offsets: Vec<usize> = self.offsets().collect();
        let base = self.arguments.as_mut_ptr();
        // SAFETY: the offsets lie in the packed arguments.
        let mut pointers: Vec<_> = offsets.iter().map(|at| unsafe { base.add(*at) }.cast()).collect();
        let launch = Launch {
            kernel: self.kernel,
            arguments: pointers.as_mut_ptr(),
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            shared_limit: self.shared_limit,
            order: match profile.order {
                Order::Forward => 0,
                Order::Reversed => 1,
                Order::Random => 2,
            },
            races: u32::from(profile.races),
            seed,
            live: live.as_ptr(),
            live_count: live.len(),
            foreign: foreign.as_ptr(),
            foreign_count: foreign.len(),
        };
        // SAFETY: one pointer per parameter, to values of their sizes; `live` and `foreign` are sorted by address.
        unsafe { engine::run(&launch) }
    }
}

/// Copies between places whose ranges are live.
///
/// # Safety
/// `bytes` bytes may be read and written there.
pub unsafe fn copy(from: &Place, to: &Place, bytes: usize) {
    let source = match from {
        Place::Arena(address) => *address as *const u8,
        Place::Pageable(address) => *address as *const u8,
        Place::Staged(data) => data.as_ptr(),
    };
    let target = match to {
        Place::Arena(address) => *address as *mut u8,
        Place::Pageable(address) => *address as *mut u8,
        Place::Staged(_) => return,
    };
    // SAFETY: the caller's promise; the ranges may overlap, as they may on the device.
    unsafe { std::ptr::copy(source, target, bytes) }
}

/// Fills memory with a pattern of 1, 2 or 4 bytes.
///
/// # Safety
/// `bytes` bytes may be written at `to`, and are a multiple of `width`.
pub unsafe fn fill(to: u64, pattern: [u8; 4], width: usize, bytes: usize) {
    // SAFETY: the caller's promise.
    let target = unsafe { std::slice::from_raw_parts_mut(to as *mut u8, bytes) };
    for chunk in target.chunks_exact_mut(width) {
        chunk.copy_from_slice(&pattern[..width]);
    }
}
