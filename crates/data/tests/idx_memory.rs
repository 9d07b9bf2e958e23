//! IDX files that lie about their size are refused within bounded memory. A process of its own, whose peak is measured.

mod support;

use std::fs;

use kiln_data::idx;
use support::{gzip, idx as encode};

/// The most memory that this process has asked for so far, in kB, where the system tells: whether it was used or not.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}

#[test]
fn huge_headers_and_bombs_reserve_little() {
    /// What may be reserved before anything has been read is 64 MiB.
    const MOST_KB: u64 = 100 << 10;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train-images-idx3-ubyte");
    // 64 MiB of zeros behind three images: only what the header declares is unpacked.
    let bomb = gzip(&encode(&[3, 28, 28], &vec![0; 64 << 20]));
    assert!(bomb.len() < 100_000);
    // 2 GiB and more of zeros, as declared: behind the file's end.
    let promised = encode(&[2 << 20, 32, 32], &[0; 1 << 20]);
    let files = [
        (encode(&[u32::MAX; 3], &[0; 100]), "declares"),
        (encode(&[2_000_000, 28, 28], &[0; 100]), "cut short"),
        (gzip(&encode(&[2_000_000, 28, 28], &[0; 100])), "cut short"),
        // Deflate could have packed that many bytes into so long a file.
        ([&gzip(&promised)[..], &vec![0; 4 << 20]].concat(), "gzip"),
        (bomb, "goes on after"),
    ];
    let start = peak();
    for (bytes, want) in files {
        fs::write(&path, bytes).unwrap();
        let message = idx::read(&path).unwrap_err().to_string();
        assert!(message.contains(want) && message.contains("idx3"), "{message}");
    }
    assert!(peak() < start + MOST_KB, "{} kB, after {start} at the start", peak());
}
