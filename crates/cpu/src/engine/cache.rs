//! How large the second-level cache of a core is, which blocks of products are cut to.

use std::sync::OnceLock;

/// Assumed where the CPU does not say.
const USUAL: usize = 512 << 10;

/// Bytes of the second-level cache of a core.
pub(crate) fn l2_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| detect().unwrap_or(USUAL))
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Option<usize> {
    None
}

/// By the leaf of CPUID that describes the caches one after the other: 4 on Intel's processors, 0x8000_001d on AMD's (Intel,
/// Software Developer's Manual, volume 2, CPUID; AMD64 Architecture Programmer's Manual, volume 3, appendix E).
#[cfg(target_arch = "x86_64")]
fn detect() -> Option<usize> {
    use core::arch::x86_64::__cpuid_count;

    /// Processors have three or four levels, the first one twice.
    const CACHES: u32 = 8;
    let query = |leaf: u32, index: u32| {
        // SAFETY: every processor of this architecture has CPUID. Newer compilers know that.
        #[allow(unused_unsafe)]
        unsafe {
            __cpuid_count(leaf, index)
        }
    };
    for (first, leaf) in [(0, 4), (0x8000_0000, 0x8000_001d)] {
        if query(first, 0).eax < leaf {
            continue; // no such leaf: a processor answers by another one
        }
        for index in 0..CACHES {
            let cache = query(leaf, index);
            let (kind, level) = (cache.eax & 0x1f, cache.eax >> 5 & 7);
            if kind == 0 {
                break; // that was the last one
            }
            if level == 2 {
                let field = |value: u32, shift: u32, bits: u32| (value >> shift & ((1 << bits) - 1)) as usize + 1;
                let (ways, partitions) = (field(cache.ebx, 22, 10), field(cache.ebx, 12, 10));
                return Some(ways * partitions * field(cache.ebx, 0, 12) * (cache.ecx as usize + 1));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux says it, too, for the processor that it is asked for.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_second_level_is_as_the_system_says() {
        let level = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/level");
        let size = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size");
        let (Ok(level), Ok(size)) = (level, size) else { return };
        let Some(kib) = size.trim().strip_suffix('K').and_then(|kib| kib.parse::<usize>().ok()) else { return };
        if level.trim() == "2" && detect().is_some() {
            assert_eq!(l2_bytes(), kib << 10);
        }
    }
}
