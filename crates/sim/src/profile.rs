//! The settings of the simulated device, read from `KILN_SIM_…`: architecture, memory, order of execution, faults.
use std::env;
use std::path::PathBuf;

/// More devices than any machine has.
const MAX_DEVICES: usize = 16;

/// The order in which threads, blocks and streams run where CUDA leaves it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Ascending, in the order of submission.
    #[default]
    Forward,
    /// Descending.
    Reversed,
    /// Random, by the seed.
    Random,
}

/// The state of the driver's compiler for PTX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jit {
    /// It compiles.
    #[default]
    Works,
    /// Its library is missing.
    Missing,
    /// The user has disabled it.
    Disabled,
}

/// The properties of the simulated device.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Compute capability, 90 for `sm_90`.
    pub arch: u32,
    /// The result of `cuDriverGetVersion`, e.g. 13000.
    pub driver: i32,
    /// The major CUDA version that cuBLASLt, cuDNN and NVRTC report; 0 for the driver's.
    pub cuda: i32,
    /// Bytes of device memory that the driver takes for each module, and each library for itself at its first use.
    pub lazy_memory: usize,
    /// What cuBLASLt returns if there is no room for it, a `cublasStatus_t`.
    pub lazy_status: u32,
    /// The newest PTX version that the driver's compiler reads, if it is not that of the driver's release.
    pub newest_ptx: Option<u32>,
    /// The state of the PTX compiler.
    pub jit: Jit,
    /// Where the driver's compiler caches its results: `CUDA_CACHE_PATH`; nowhere if that is not set.
    pub jit_cache: Option<PathBuf>,
    /// Whether the driver refuses machine code, as one older than the assembler does.
    pub no_sass: bool,
    /// Number of devices, all alike.
    pub devices: usize,
    /// Bytes of memory of each device.
    pub memory: usize,
    /// Whether there are memory pools (`cuMemAllocAsync`).
    pub pools: bool,
    /// The order where CUDA leaves it open.
    pub order: Order,
    /// The seed of the random order.
    pub seed: u64,
    /// Whether to detect races through global memory within a launch, which takes time and memory.
    pub races: bool,
    /// Whether memory held at the end is reported as a mistake, with the place where it was allocated.
    pub leaks: bool,
    /// Whether products and convolutions write zeros instead of what they should compute, for an account of large networks.
    pub no_values: bool,
    /// Faults to inject.
    pub faults: Faults,
}

/// The `n`-th event of a kind, from 1; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nth {
    at: u64,
    seen: u64,
}

impl Nth {
    /// The `at`-th one.
    #[must_use]
    pub fn new(at: u64) -> Nth {
        Nth { at, seen: 0 }
    }

    /// Counts an event, and returns whether it is the one that fails.
    pub fn fails(&mut self) -> bool {
        self.seen += 1;
        self.seen == self.at
    }
}

/// Failures that a program has to cope with.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The result of `cuInit`.
    pub init: i32,
    /// The allocation of device memory that fails.
    pub allocation: Nth,
    /// The launch, of a kernel or a product, that fails.
    pub launch: Nth,
    /// The kernel that fails after it has run, like one that accessed an illegal address.
    pub kernel: Nth,
    /// The `cuEventRecord` that fails.
    pub record: Nth,
    /// The call of a collective of NCCL that does not return until its communicator is aborted.
    pub hang: Nth,
    /// Whether that call does not return at all.
    pub hang_forever: bool,
    /// Epilogues (`cublasLtEpilogue_t`) for which the heuristic offers nothing; negative ones, for which it returns an
    /// invalid-value error.
    pub no_epilogues: Vec<i64>,
    /// Maximum number of candidates of cuBLASLt's heuristic; 0 for all.
    pub most_candidates: usize,
    /// Products that are refused when they are executed, by epilogue (`cublasLtEpilogue_t`).
    pub no_products: Vec<Refused>,
    /// Calls of cuDNN that are refused: `create`, `heuristic` and `search`, and the execution of convolutions,
    /// `forward`, `fused`, `data` and `filter`.
    pub no_convolutions: Vec<Refused>,
    /// How many microseconds longer convolutions take whose images have rows of channels that do not fill 16 bytes.
    pub slow_channels: u64,
}

/// A call of a library that is refused: `what[:which][=status]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The kind of call, or `any`.
    what: String,
    /// The algorithm that is refused; all of them if `None`.
    which: Option<u32>,
    /// The status that the library returns, if not that this is unsupported.
    status: Option<u32>,
}

impl Refused {
    /// A comma-separated list. Invalid entries are reported and ignored.
    fn list(name: &str) -> Vec<Refused> {
        let text = env::var(name).unwrap_or_default();
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let read = entries.filter_map(|entry| {
            let refused = Refused::read(entry);
            if refused.is_none() {
                eprintln!("simulated device: {name}: {entry} is none of `what`, `what:which`, `what=status`");
            }
            refused
        });
        read.collect()
    }

    /// One entry.
    #[must_use]
    pub fn read(entry: &str) -> Option<Refused> {
        let (call, status) = entry.split_once('=').map_or((entry, None), |(call, status)| (call, Some(status)));
        let (what, which) = call.split_once(':').map_or((call, None), |(what, which)| (what, Some(which)));
        let number = |text: Option<&str>| text.map(|text| text.trim().parse().ok());
        let (which, status) = (number(which), number(status));
        // A number that is present but cannot be parsed.
        if which == Some(None) || status == Some(None) || what.is_empty() {
            return None;
        }
        Some(Refused { what: what.to_string(), which: which.flatten(), status: status.flatten() })
    }

    /// The status of the first entry that matches a call; `unsupported` if the entry names none.
    #[must_use]
    pub fn find(list: &[Refused], what: &str, which: u32, unsupported: u32) -> Option<u32> {
        let falls = |one: &&Refused| {
            (one.what == what || one.what == "any") && one.which.is_none_or(|refused| refused == which)
        };
        list.iter().find(falls).map(|one| one.status.unwrap_or(unsupported))
    }
}

impl Default for Profile {
    fn default() -> Self {
        Profile {
            arch: 90,
            driver: 13000,
            cuda: 0,
            lazy_memory: 0,
            lazy_status: 3,
            newest_ptx: None,
            jit: Jit::Works,
            jit_cache: None,
            no_sass: false,
            devices: 1,
            memory: 4 << 30,
            pools: true,
            order: Order::Forward,
            seed: 0,
            races: false,
            leaks: false,
            no_values: false,
            faults: Faults::default(),
        }
    }
}

impl Profile {
    /// The default, changed by `KILN_SIM_ARCH`, `KILN_SIM_DRIVER`, `KILN_SIM_DEVICES`, `KILN_SIM_MEMORY`,
    /// `KILN_SIM_POOLS`, `KILN_SIM_ORDER` (forward, reversed, random), `KILN_SIM_SEED`, `KILN_SIM_RACES`, `KILN_SIM_LEAKS`,
    /// `KILN_SIM_NO_VALUES`, `KILN_SIM_PTX`, `KILN_SIM_NO_JIT`, `KILN_SIM_NO_SASS`, `KILN_SIM_FAIL_ALLOCATION`,
    /// `KILN_SIM_FAIL_LAUNCH`, `KILN_SIM_FAIL_KERNEL`, `KILN_SIM_FAIL_RECORD`, `KILN_SIM_HANG_COLLECTIVE`,
    /// `KILN_SIM_HANG_FOREVER`, `KILN_SIM_NO_EPILOGUES` (numbers, with commas),
    /// `KILN_SIM_CANDIDATES`, `KILN_SIM_NO_PRODUCTS`, `KILN_SIM_NO_CONVOLUTIONS` (as in `fused,data:1=5000`),
    /// `KILN_SIM_SLOW_CHANNELS`, `KILN_SIM_CUDA` and `KILN_SIM_LAZY_MEMORY`, and by what the driver itself reads:
    /// `CUDA_CACHE_PATH`, `CUDA_CACHE_DISABLE`, `CUDA_DISABLE_PTX_JIT`.
    pub fn from_env() -> Self {
        let mut profile = Profile::default();
        read("KILN_SIM_ARCH", &mut profile.arch);
        read("KILN_SIM_DRIVER", &mut profile.driver);
        read("KILN_SIM_CUDA", &mut profile.cuda);
        read("KILN_SIM_LAZY_MEMORY", &mut profile.lazy_memory);
        read("KILN_SIM_LAZY_STATUS", &mut profile.lazy_status);
        read("KILN_SIM_DEVICES", &mut profile.devices);
        profile.devices = profile.devices.clamp(1, MAX_DEVICES);
        read("KILN_SIM_MEMORY", &mut profile.memory);
        let (mut newest_ptx, mut no_jit, mut no_sass) = (0u32, 0u8, 0u8);
        read("KILN_SIM_PTX", &mut newest_ptx);
        read("KILN_SIM_NO_JIT", &mut no_jit);
        read("KILN_SIM_NO_SASS", &mut no_sass);
        profile.newest_ptx = (newest_ptx > 0).then_some(newest_ptx);
        profile.no_sass = no_sass != 0;
        let set = |name| env::var(name).is_ok_and(|value| value == "1");
        profile.jit = match (no_jit, set("CUDA_DISABLE_PTX_JIT")) {
            (0, false) => Jit::Works,
            (0, true) => Jit::Disabled,
            _ => Jit::Missing,
        };
        profile.jit_cache = env::var_os("CUDA_CACHE_PATH").map(PathBuf::from).filter(|_| !set("CUDA_CACHE_DISABLE"));
        let mut pools = u8::from(profile.pools);
        read("KILN_SIM_POOLS", &mut pools);
        profile.pools = pools != 0;
        let (mut races, mut leaks, mut no_values) = (0u8, 0u8, 0u8);
        read("KILN_SIM_RACES", &mut races);
        read("KILN_SIM_LEAKS", &mut leaks);
        read("KILN_SIM_NO_VALUES", &mut no_values);
        (profile.races, profile.leaks, profile.no_values) = (races != 0, leaks != 0, no_values != 0);
        read("KILN_SIM_SEED", &mut profile.seed);
        match env::var("KILN_SIM_ORDER").as_deref() {
            Ok("reversed") => profile.order = Order::Reversed,
            Ok("random") => profile.order = Order::Random,
            _ => {}
        }
        let (mut allocation, mut launch, mut kernel, mut record, mut hang) = (0, 0, 0, 0, 0);
        read("KILN_SIM_FAIL_ALLOCATION", &mut allocation);
        read("KILN_SIM_FAIL_LAUNCH", &mut launch);
        read("KILN_SIM_FAIL_KERNEL", &mut kernel);
        read("KILN_SIM_FAIL_RECORD", &mut record);
        read("KILN_SIM_HANG_COLLECTIVE", &mut hang);
        let epilogues = env::var("KILN_SIM_NO_EPILOGUES").unwrap_or_default();
        let no_epilogues = epilogues.split(',').filter_map(|number| number.trim().parse().ok()).collect();
        let mut init = 0;
        read("KILN_SIM_INIT", &mut init);
        let mut most_candidates = 0;
        read("KILN_SIM_CANDIDATES", &mut most_candidates);
        let mut slow_channels = 0;
        read("KILN_SIM_SLOW_CHANNELS", &mut slow_channels);
        let no_products = Refused::list("KILN_SIM_NO_PRODUCTS");
        let no_convolutions = Refused::list("KILN_SIM_NO_CONVOLUTIONS");
        let [allocation, launch, kernel, record, hang] = [allocation, launch, kernel, record, hang].map(Nth::new);
        profile.faults = Faults {
            init,
            allocation,
            launch,
            kernel,
            record,
            hang,
            hang_forever: set("KILN_SIM_HANG_FOREVER"),
            no_epilogues,
            most_candidates,
            no_products,
            no_convolutions,
            slow_channels,
        };
        profile
    }

    /// The result of `cuDeviceGetName`.
    pub fn name(&self) -> String {
        format!("Simulated CUDA device (sm_{})", self.arch)
    }

    /// The CUDA version of the libraries, e.g. 13000.
    pub fn libraries(&self) -> i32 {
        if self.cuda > 0 { 1000 * self.cuda } else { self.driver / 1000 * 1000 }
    }

    /// The newest PTX version that the driver's compiler reads, 85 for 8.5.
    pub fn ptx(&self) -> u32 {
        // CUDA releases, and the PTX version of each.
        const RELEASES: [(i32, u32); 13] = [
            (11040, 74),
            (11050, 75),
            (11060, 76),
            (11070, 77),
            (11080, 78),
            (12000, 80),
            (12010, 81),
            (12020, 82),
            (12030, 83),
            (12040, 84),
            (12050, 85),
            (12080, 87),
            (12090, 88),
        ];
        if let Some(newest) = self.newest_ptx {
            return newest;
        }
        if self.driver >= 13000 {
            return 90 + (self.driver % 1000 / 10) as u32;
        }
        RELEASES.iter().rev().find(|(release, _)| self.driver >= *release).map_or(70, |(_, ptx)| *ptx)
    }

    /// Bytes of shared memory that a block may have after `cuFuncSetAttribute`.
    pub fn shared_opt_in(&self) -> usize {
        match self.arch {
            75 => 64 << 10,
            80 | 87 => 163 << 10,
            86 | 89 | 120 => 99 << 10,
            _ => 227 << 10,
        }
    }

    /// Number of multiprocessors.
    pub fn processors(&self) -> i32 {
        match self.arch {
            75 => 40,
            80 => 108,
            _ => 132,
        }
    }

    /// Threads that can be resident on a multiprocessor.
    pub fn resident_threads(&self) -> i32 {
        if self.arch == 75 { 1024 } else { 2048 }
    }

    /// The value of a `CUdevice_attribute`, if it is simulated.
    pub fn attribute(&self, attribute: i32) -> Option<i32> {
        // The numbers are those of `CUdevice_attribute`.
        Some(match attribute {
            // Threads per block: in total, along x and y, along z; shared memory that the driver reserves per block.
            1..=3 | 111 => 1024,
            4 => 64,
            // Blocks of a grid along x; the pitch of copies.
            5 | 11 => i32::MAX,
            6 | 7 => 65535,
            8 => SHARED_PER_BLOCK as i32,
            // Constant memory; registers per block and per multiprocessor.
            9 | 12 | 82 => 65536,
            10 => 32,
            // Clock of the processors and of the memory in kHz, the memory's width in bits.
            13 => 1_500_000,
            36 => 2_000_000,
            37 => 384,
            14 => 512,
            // Copies concurrent with kernels, mapped host memory, concurrent kernels, a PCI bus, unified addresses,
            // stream priorities.
            15 | 19 | 31 | 33 | 41 | 78 => 1,
            16 => self.processors(),
            // Time limit, integrated, compute mode, ECC, PCI, managed memory, cooperative launches.
            17 | 18 | 20 | 32 | 34 | 35 | 83 | 89 | 95 => 0,
            38 => 40 << 20,
            39 => self.resident_threads(),
            40 => 2,
            75 => (self.arch / 10) as i32,
            76 => (self.arch % 10) as i32,
            81 => (self.shared_opt_in() + 1024) as i32,
            97 => self.shared_opt_in() as i32,
            106 => {
                if self.arch == 75 {
                    16
                } else {
                    32
                }
            }
            115 => i32::from(self.pools),
            _ => return None,
        })
    }
}

/// Shared memory per block without opting in to more.
pub const SHARED_PER_BLOCK: usize = 48 << 10;

fn read<T: std::str::FromStr>(name: &str, into: &mut T) {
    if let Ok(text) = env::var(name) {
        match text.trim().parse() {
            Ok(value) => *into = value,
            Err(_) => eprintln!("simulated device: {name}={text} is not a valid number, and is ignored"),
        }
    }
}
