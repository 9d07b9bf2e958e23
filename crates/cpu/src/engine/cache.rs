//! How large the second-level cache of a core is, which blocks of products are cut to, and how many hardware threads share it.

use std::sync::OnceLock;

/// The second-level cache of a core.
#[derive(Clone, Copy)]
pub(crate) struct L2 {
    pub bytes: usize,
    /// Hardware threads that share it, at most: processors count those that are switched off.
    pub threads: usize,
}

/// Assumed where the CPU does not say.
const USUAL: L2 = L2 { bytes: 512 << 10, threads: 1 };

pub(crate) fn l2() -> L2 {
    static CACHE: OnceLock<L2> = OnceLock::new();
    *CACHE.get_or_init(|| detect().unwrap_or(USUAL))
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Option<L2> {
    None
}

/// By the leaf of CPUID that describes the caches one after the other: 4 on Intel's processors, 0x8000_001d on AMD's (Intel,
/// Software Developer's Manual, volume 2, CPUID; AMD64 Architecture Programmer's Manual, volume 3, appendix E).
#[cfg(target_arch = "x86_64")]
fn detect() -> Option<L2> {
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
                let bytes = ways * partitions * field(cache.ebx, 0, 12) * (cache.ecx as usize + 1);
                return Some(L2 { bytes, threads: field(cache.eax, 14, 12) });
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
        let read = |name| std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index2/{name}"));
        let (Ok(level), Ok(size), Ok(sharing)) = (read("level"), read("size"), read("shared_cpu_list")) else { return };
        let Some(kib) = size.trim().strip_suffix('K').and_then(|kib| kib.parse::<usize>().ok()) else { return };
        if level.trim() == "2" && detect().is_some() {
            assert_eq!(l2().bytes, kib << 10);
            // Numbers and ranges of them.
            let range = |part: &str| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                last.parse::<usize>().unwrap() - first.parse::<usize>().unwrap() + 1
            };
            assert!(
                l2().threads >= sharing.trim().split(',').map(range).sum(),
                "{} share it, not {sharing}",
                l2().threads
            );
        }
    }
}
