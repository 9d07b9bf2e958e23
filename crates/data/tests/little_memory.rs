//! Running out of memory while decoding an image is an error, wherever in the decoder it happens, and never aborts the
//! process.

#![cfg(feature = "images")]

#[path = "../../../tests/support/checkout.rs"]
mod checkout;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    path::PathBuf,
    process::Command,
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use kiln_data::transforms::{Image, ImageLimits};
use kiln_tensor::{Error, ErrorKind};

/// The system's allocator with a bound on the bytes that are allocated at a time.
struct Bounded;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static BOUND: AtomicUsize = AtomicUsize::new(usize::MAX);
/// The least bound that would have admitted one of the allocations that were refused.
static REFUSED: AtomicUsize = AtomicUsize::new(usize::MAX);
/// What is always there: an error that says that memory has run out takes some itself.
const SMALL: usize = 4 << 10;

impl Bounded {
    /// Counts an allocation; whether there is room for it.
    fn admit(size: usize) -> bool {
        let live = LIVE.fetch_add(size, Relaxed) + size;
        let fits = size <= SMALL || live <= BOUND.load(Relaxed);
        if fits {
            PEAK.fetch_max(live, Relaxed);
        } else {
            LIVE.fetch_sub(size, Relaxed);
            REFUSED.fetch_min(live, Relaxed);
        }
        fits
    }
}

// SAFETY: blocks come from the system's allocator, and go back to it as they came.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        if Bounded::admit(layout.size()) { unsafe { System.alloc(layout) } } else { ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        if Bounded::admit(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { ptr::null_mut() }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both blocks may be there while one is copied.
        if !Bounded::admit(size) {
            return ptr::null_mut();
        }
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

/// The files of `tests/golden/make_large_images.py`, and formats that do not pack.
fn files() -> Vec<(String, Vec<u8>)> {
    let folder = checkout::path("tests/golden/large_images");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut files: Vec<_> = paths.map(|path| (name(&path), fs::read(path).unwrap())).collect();
    let image = Image::new(64, 1000, 3, vec![7; 64 * 1000 * 3]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for name in ["rgb.bmp", "rgb.ppm"] {
        image.save(folder.path().join(name)).unwrap();
        files.push((name.to_owned(), fs::read(folder.path().join(name)).unwrap()));
    }
    // A BMP of run lengths: rows of 800 of one index.
    let header = [40u32, 800, 600, 1 | 8 << 16, 1, 0, 0, 0, 0, 0].map(u32::to_le_bytes).concat();
    let rows = [[200u8, 1].repeat(4), vec![0, 0]].concat().repeat(600);
    let start = (54u32 + 1024).to_le_bytes();
    files.push(("runs.bmp".to_owned(), [b"BM", &[0; 8][..], &start, &header, &[9; 1024], &rows, &[0, 1]].concat()));
    let text = format!("P2 300 200 255\n{}", "17 ".repeat(300 * 200));
    files.push(("text.pgm".to_owned(), text.into_bytes()));
    // A JPEG whose components come one after the other.
    let (_, together) = files.iter().find(|(name, _)| name == "gray.jpeg").unwrap();
    files.push(("planes.jpeg".to_owned(), planes_of(together)));
    files.sort();
    files
}

/// A JPEG of three components, each of which is this gray one, with a scan of its own.
fn planes_of(gray: &[u8]) -> Vec<u8> {
    let at = |marker: u8| gray.windows(2).position(|bytes| bytes == [0xff, marker]).unwrap();
    let (frame, scan, end) = (at(0xc0), at(0xda), gray.len() - 2);
    let header = &gray[frame + 4..frame + 10];
    let mut out = gray[..frame].to_vec();
    out.extend([0xff, 0xc0, 0, 17]);
    out.extend([&header[..5], &[3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]].concat());
    // Tables follow, and the scan, whose component is the fifth byte after its marker and length.
    let tables = frame + 2 + usize::from(u16::from_be_bytes([gray[frame + 2], gray[frame + 3]]));
    out.extend(&gray[tables..scan]);
    for component in 1..=3 {
        let mut scan = gray[scan..end].to_vec();
        scan[5] = component;
        out.extend(scan);
    }
    out.extend(&gray[end..]);
    out
}

fn is_out_of_memory(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::OutOfMemory { .. })
}

/// Decodes with less memory than it takes, in all steps, within `limits`; prints what it is at, for the parent to name.
fn decode_with_every_bound(name: &str, bytes: &[u8]) {
    let limits = ImageLimits::default();
    PEAK.store(LIVE.load(Relaxed), Relaxed);
    let start = LIVE.load(Relaxed);
    let whole = Image::decode_with(bytes, limits).unwrap_or_else(|error| panic!("{name}: {error}"));
    let peak = PEAK.load(Relaxed) - start;
    let (mut refused, mut bound) = (0, 0);
    println!("{name}: decoding takes {peak} bytes");
    loop {
        eprintln!("{name} within {bound} of {peak} bytes");
        let live = LIVE.load(Relaxed);
        REFUSED.store(usize::MAX, Relaxed);
        BOUND.store(live + bound, Relaxed);
        let result = Image::decode_with(bytes, limits);
        BOUND.store(usize::MAX, Relaxed);
        match result {
            Ok(image) if image == whole => break,
            result => {
                let refusal = result.as_ref().is_err_and(is_out_of_memory);
                assert!(refusal, "{name} within {bound} of {peak} bytes: {result:?}");
                refused += 1;
            }
        }
        // What is asked for in advance may be more than is needed, but not by far.
        assert!(bound < 3 * peak + (20 << 20), "{name} takes {peak} bytes, and is refused with {bound}");
        // With all bounds below the least that admits more, the same is refused.
        bound = REFUSED.load(Relaxed) - live;
    }
    assert!(refused > 1, "{name}: refused {refused} times");
}

const CHILD: &str = "KILN_TEST_LITTLE_MEMORY";
const FILE: &str = "KILN_TEST_FILE";

/// Not a test by itself: the process that has little memory.
#[test]
fn child_with_little_memory() {
    let (Ok(kind), Ok(path)) = (std::env::var(CHILD), std::env::var(FILE)) else { return };
    let bytes = fs::read(&path).unwrap();
    if kind == "bounded" {
        return decode_with_every_bound(&path, &bytes);
    }
    let kilobytes = |name: &str| {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap()
    };
    if kind == "measured" {
        return println!("it has {} kB", kilobytes("VmSize:"));
    }
    match Image::decode(&bytes) {
        Ok(_) => println!("decoded"),
        Err(error) if is_out_of_memory(&error) => println!("refused"),
        Err(error) => panic!("{error}"),
    }
}

/// Runs the child, perhaps with so many kilobytes of addresses; returns what it prints.
fn child(kind: &str, name: &str, bytes: &[u8], kilobytes: Option<u64>) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let limit = kilobytes.map_or(String::new(), |kilobytes| format!("ulimit -v {kilobytes} && "));
    let mut command = Command::new("sh");
    let run = "exec \"$0\" --exact child_with_little_memory --nocapture --test-threads 1";
    command.args(["-c", &format!("{limit}{run}")]).arg(std::env::current_exe().unwrap());
    // glibc reserves addresses for every thread, and backtraces take memory.
    let output = command
        .env("MALLOC_ARENA_MAX", "1")
        .env("RUST_BACKTRACE", "0")
        .env(CHILD, kind)
        .env(FILE, &path)
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    Err(format!("{name} {kind} {kilobytes:?}: {} after {last:?}", output.status))
}

/// Bounded by the allocator, byte by byte.
#[cfg(unix)]
#[test]
fn memory_that_runs_out_in_a_decoder_is_an_error() {
    let files = files();
    let wrong_of = |files: &[(String, Vec<u8>)]| -> Vec<String> {
        files.iter().filter_map(|(name, bytes)| child("bounded", name, bytes, None).err()).collect()
    };
    let (some, others) = files.split_at(files.len() / 2);
    let wrong = std::thread::scope(|scope| {
        let first = scope.spawn(|| wrong_of(some));
        let last = wrong_of(others);
        [first.join().unwrap(), last].concat()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Bounded by the operating system.
#[cfg(target_os = "linux")]
#[test]
fn addresses_that_run_out_in_a_decoder_are_an_error() {
    let (mut wrong, mut decoded, mut refused) = (Vec::new(), 0, 0);
    for (name, bytes) in files() {
        let measured = child("measured", &name, &bytes, None).unwrap();
        let number = measured.split("it has ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let start: u64 = number.parse().unwrap();
        for more in [0, 300, 1000, 1500, 2000, 3000, 4000, 6000, 10_000, 30_000] {
            match child("limited", &name, &bytes, Some(start + more)) {
                // With more it is decoded as well.
                Ok(said) if said.contains("decoded") => {
                    decoded += 1;
                    break;
                }
                Ok(said) if said.contains("refused") => refused += 1,
                Ok(said) => panic!("{said}"),
                Err(message) => wrong.push(message),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(decoded > 30 && refused > 40, "{decoded} decoded, {refused} refused");
}
