//! Device descriptions in cuDNN's format (`CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION`).

/// A device, by a short name. Values that depend only on the compute capability are from the table "Technical
/// Specifications per Compute Capability" of the CUDA C++ Programming Guide; the others are from NVIDIA's data sheet or
/// white paper of the device.
#[allow(missing_debug_implementations, missing_docs, reason = "a table")]
pub struct Device {
    /// A name such as sm_90 or h100.
    pub key: &'static str,
    pub alias: &'static str,
    name: &'static str,
    /// The compute capability, e.g. 900 for 9.0.
    version: u32,
    multiprocessors: u32,
    /// The most shared memory that a block may use, in bytes.
    shared_memory: u32,
    threads: u32,
    blocks: u32,
    /// The size of the L2 cache in bytes.
    cache: u32,
    memory: u64,
    /// Width of the memory bus in bits.
    bus: u32,
    /// Clock rates of the multiprocessors and of the memory, in kHz.
    clocks: [u32; 2],
}

#[allow(missing_docs, reason = "as above")]
pub const DEVICES: [Device; 6] = [
    // NVIDIA A100 Tensor Core GPU Architecture (white paper, 2020); A100 80GB data sheet.
    Device {
        key: "sm_80",
        alias: "a100",
        name: "NVIDIA A100-SXM4-80GB",
        version: 800,
        multiprocessors: 108,
        shared_memory: 166_912,
        threads: 2048,
        blocks: 32,
        cache: 41_943_040,
        memory: 85_000_000_000,
        bus: 5120,
        clocks: [1_410_000, 1_593_000],
    },
    // NVIDIA Ampere GA102 GPU Architecture (white paper, 2021), table 2.
    Device {
        key: "sm_86",
        alias: "rtx3090",
        name: "NVIDIA GeForce RTX 3090",
        version: 860,
        multiprocessors: 82,
        shared_memory: 101_376,
        threads: 1536,
        blocks: 16,
        cache: 6_291_456,
        memory: 25_000_000_000,
        bus: 384,
        clocks: [1_695_000, 9_751_000],
    },
    // NVIDIA Ada GPU Architecture (white paper, 2023), table 2.
    Device {
        key: "sm_89",
        alias: "rtx4090",
        name: "NVIDIA GeForce RTX 4090",
        version: 890,
        multiprocessors: 128,
        shared_memory: 101_376,
        threads: 1536,
        blocks: 24,
        cache: 75_497_472,
        memory: 25_000_000_000,
        bus: 384,
        clocks: [2_520_000, 10_501_000],
    },
    // NVIDIA H100 Tensor Core GPU Architecture (white paper, 2022), table 2.
    Device {
        key: "sm_90",
        alias: "h100",
        name: "NVIDIA H100 80GB HBM3",
        version: 900,
        multiprocessors: 132,
        shared_memory: 232_448,
        threads: 2048,
        blocks: 32,
        cache: 52_428_800,
        memory: 85_000_000_000,
        bus: 5120,
        clocks: [1_980_000, 2_619_000],
    },
    // NVIDIA Blackwell Architecture Technical Brief (2024); DGX B200 data sheet.
    Device {
        key: "sm_100",
        alias: "b200",
        name: "NVIDIA B200",
        version: 1000,
        multiprocessors: 148,
        shared_memory: 232_448,
        threads: 2048,
        blocks: 32,
        cache: 132_644_864,
        memory: 190_000_000_000,
        bus: 8192,
        clocks: [1_965_000, 3_996_000],
    },
    // NVIDIA RTX Blackwell GPU Architecture (white paper, 2025), table 2.
    Device {
        key: "sm_120",
        alias: "rtx5090",
        name: "NVIDIA GeForce RTX 5090",
        version: 1200,
        multiprocessors: 170,
        shared_memory: 101_376,
        threads: 1536,
        blocks: 24,
        cache: 100_663_296,
        memory: 34_000_000_000,
        bus: 512,
        clocks: [2_407_000, 14_001_000],
    },
];

impl Device {
    /// The description. Its fixed values are the same for all devices of these capabilities.
    pub fn json(&self) -> String {
        let Device { name, version, multiprocessors, shared_memory, threads, blocks, cache, memory, bus, .. } = self;
        let [clock, memory_clock] = self.clocks;
        format!(
            r#"{{"maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536,
            "multiProcessorCount": {multiprocessors}, "smCountOrigin": 0, "warpSize": 32, "maxSharedMemoryPerBlock": 49152,
            "maxSharedMemoryPerBlockOptin": {shared_memory}, "reservedSharedMemoryPerBlock": 1024,
            "oversizedSharedMemoryPerBlock": 0, "maxRegistersPerSM": 65536, "maxCtasPerSM": {blocks},
            "maxThreadsPerBlock": 1024, "maxThreadsPerSM": {threads}, "pciDeviceId": 0, "isTccDriver": 0,
            "supportCoopLaunch": 1, "totalGlobalMem": {memory}, "smClockRateKHz": {clock},
            "memClockRateKHz": {memory_clock}, "memoryBusWidth": {bus}, "l2CacheSize": {cache}, "cudaDeviceId": 0,
            "deviceVer": {version}, "driverVer": 13000, "deviceName": "{name}"}}"#
        )
    }
}
