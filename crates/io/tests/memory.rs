//! What loading may take: within ten times the file and 64 MiB, whatever the file says; and memory that runs out is an
//! error, not the end of the process.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use kiln_io::{Checkpoint, LoadOptions, Metadata, PthFile, load, load_model, save_with_metadata};
use kiln_tensor::{Device, ErrorKind, StateDict};
use tempfile::tempdir;

/// Counts what is allocated now, and the most that was.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
}

// SAFETY: all calls go to the system's allocator as they come.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            count(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            count(layout.size());
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        let new = unsafe { System.realloc(block, layout, size) };
        if !new.is_null() {
            // Both may be there while one is copied.
            count(size);
            LIVE.fetch_sub(layout.size(), Relaxed);
        }
        new
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One at a time: what others allocate would be counted.
static TURN: Mutex<()> = Mutex::new(());

/// The most memory that `f` held.
fn peak_of<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = f();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}

/// A zip archive of uncompressed records without checksums.
fn archive(records: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in records {
        let offset = out.len() as u32;
        let common = |out: &mut Vec<u8>| {
            out.extend([0u8; 2 * 4]);
            out.extend(0u32.to_le_bytes());
            out.extend((data.len() as u32).to_le_bytes());
            out.extend((data.len() as u32).to_le_bytes());
            out.extend((name.len() as u16).to_le_bytes());
            out.extend(0u16.to_le_bytes());
        };
        out.extend(b"PK\x03\x04\x14\0");
        common(&mut out);
        out.extend(name.as_bytes());
        out.extend(*data);
        directory.extend(b"PK\x01\x02\x14\0\x14\0");
        common(&mut directory);
        directory.extend([0u8; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = out.len() as u32;
    let count = (records.len() as u16).to_le_bytes();
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count);
    out.extend(count);
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
    out
}

fn with_header(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
}

/// The pickle of a list of these opcodes.
fn list_of(opcode: &[u8], count: usize) -> Vec<u8> {
    [&b"\x80\x02]("[..], &opcode.repeat(count), b"e."].concat()
}

/// The pickle of a dict of tensors of the storage "0", each of as many numbers.
fn tensors(count: usize, numbers: usize) -> Vec<u8> {
    let storage = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI0\ntQ";
    let item =
        |i: usize| format!("S'{i}'\nctorch._utils\n_rebuild_tensor_v2\n({storage}I0\n(I{numbers}\nt(I1\ntI00\n(dtRs");
    format!("(d{}.", (0..count).map(item).collect::<String>()).into_bytes()
}

/// Files that are small and would be large, by what they are.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let pth = |pickle: &[u8]| archive(&[("a/data.pkl", pickle), ("a/data/0", &[0; 4096])]);
    // A list of 40 elements, each the list before: shared, it is 40 lists; one by one, 40^40 values.
    let mut shared = b"\x80\x02]q\x00".to_vec();
    for i in 0..40u8 {
        let list = [&b"]("[..], &[b'h', i].repeat(40), &[b'e', b'q', i + 1]].concat();
        shared.extend(list);
    }
    shared.push(b'.');
    let text = |opcode: &[u8], count: usize| {
        [&b"\x80\x02]X\x00\x80\x00\x00"[..], &[b'a'; 0x8000], b"q\x00(", &opcode.repeat(count), b"e."].concat()
    };
    let empty: String =
        (0..300_000).map(|i| format!(r#","{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    let notes: String = (0..200_000).map(|i| format!(r#","{i}":"x""#)).collect();
    let shards: String = (0..100_000).map(|i| format!(r#","{i}":"f{i}""#)).collect();
    let numbers = "0,".repeat(2_000_000);
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    vec![
        ("lists that share lists", pth(&shared)),
        ("a text in many places", pth(&text(b"h\x00", 200_000))),
        ("4 MB of None", pth(&list_of(b"N", 4_000_000))),
        ("4 MB of empty lists", pth(&list_of(b"]", 4_000_000))),
        ("4 MB of empty tuples", pth(&list_of(b")", 4_000_000))),
        ("4 MB of empty dicts, legacy", [&magic[..], &list_of(b"}", 4_000_000)].concat()),
        ("4 MB of marks", pth(&[&b"("[..]].concat().repeat(4_000_000))),
        ("2 MB of tuples of one", pth(&[&b"N"[..], &b"\x85".repeat(2_000_000), b"."].concat())),
        (
            "memo entries far apart",
            pth(&(0..400_000u32)
                .flat_map(|i| [&b"Nr"[..], &i.wrapping_mul(99_991).to_le_bytes()].concat())
                .collect::<Vec<u8>>()),
        ),
        ("objects", pth(&list_of(b"cm\nC\n)R", 300_000))),
        ("30,000 empty tensors", pth(&tensors(30_000, 0))),
        ("30,000 views of one storage", pth(&tensors(30_000, 1024))),
        ("300,000 empty tensors", with_header(&format!("{{{}}}", &empty[1..]))),
        ("200,000 notes", with_header(&format!(r#"{{"__metadata__":{{{}}}}}"#, &notes[1..]))),
        ("100,000 shards", format!(r#"{{"weight_map":{{{}}}}}"#, &shards[1..]).into_bytes()),
        ("numbers in an index", format!(r#"{{"metadata":[{numbers}0],"weight_map":{{}}}}"#).into_bytes()),
        (
            "numbers in a checkpoint",
            with_header(&format!(
                r#"{{"__metadata__":{{"kiln.checkpoint":"[{numbers}0]","kiln.model":"[{numbers}0]"}}}}"#
            )),
        ),
    ]
}

/// A way to read a file, by its name.
type Reader = (&'static str, fn(&Path) -> bool);

#[test]
fn a_small_file_stays_small() {
    let _turn = TURN.lock().unwrap();
    let folder = tempdir().unwrap();
    let path = folder.path().join("hostile");
    // What is made once, threads and tables.
    let _ = load(&path, Device::Cpu);
    for (what, bytes) in hostile() {
        fs::write(&path, &bytes).unwrap();
        let is_tensor_file = bytes.get(8) == Some(&b'{');
        let bound = 10 * bytes.len() + (64 << 20);
        drop(bytes);
        let mut readers: Vec<Reader> = vec![("load", |path| load(path, Device::Cpu).is_ok())];
        if is_tensor_file {
            readers.push(("load_model", |path| load_model(path, Device::Cpu).is_ok()));
            readers.push(("Checkpoint", |path| Checkpoint::load(path, Device::Cpu).is_ok()));
        }
        for (reader, read) in readers {
            let (_, peak) = peak_of(|| read(&path));
            assert!(peak <= bound, "{what}: {reader} took {peak} bytes, and {bound} are allowed");
        }
    }
}

#[test]
fn the_caller_sets_the_limit() {
    let _turn = TURN.lock().unwrap();
    let folder = tempdir().unwrap();
    let path = folder.path().join("views.pth");
    fs::write(&path, archive(&[("a/data.pkl", &tensors(2_000, 1024)), ("a/data/0", &[0; 4096])])).unwrap();
    let options = |limit| LoadOptions::new(Device::Cpu).memory_limit(limit);
    for limit in [1 << 10, 1 << 18, 1 << 20] {
        let (result, peak) = peak_of(|| load(&path, options(limit)));
        let message = result.unwrap_err().to_string();
        assert!(message.contains("`LoadOptions::memory_limit`") && message.contains(&limit.to_string()), "{message}");
        assert!(peak <= limit + (64 << 10), "{peak} of {limit}");
        assert!(PthFile::open_with(&path, options(limit)).is_err());
    }
    assert_eq!(load(&path, options(64 << 20)).unwrap().len(), 2_000);
    let tensors = folder.path().join("x.safetensors");
    save_with_metadata(&tensors, &StateDict::new(), &Metadata::from([("note".into(), "x".repeat(1 << 20))])).unwrap();
    assert!(load(&tensors, options(1 << 20)).is_err());
    assert!(load(&tensors, options(8 << 20)).unwrap().is_empty());
}

const CHILD: &str = "KILN_TEST_LITTLE_MEMORY";

/// Not a test by itself: the process that has little memory.
#[test]
fn child_with_little_memory() {
    let Some(folder) = env::var_os(CHILD).map(PathBuf::from) else { return };
    for name in ["large.safetensors", "large.pth", "pickle.pth", "legacy.pth", "index.json"] {
        let error = load(folder.join(name), LoadOptions::default().memory_limit(usize::MAX)).unwrap_err();
        let expected = matches!(error.kind(), ErrorKind::OutOfMemory { .. });
        assert!(expected, "{name}: {error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn memory_that_runs_out_is_an_error() {
    let _turn = TURN.lock().unwrap();
    let folder = tempdir().unwrap();
    let size: u64 = 8 << 30;
    // Files with holes: they are as long as they say, and take no space.
    let sparse = |name: &str, start: &[u8], end: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, start).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(start.len() as u64 + size).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, end, start.len() as u64 + size).unwrap();
    };
    let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}"#);
    sparse("large.safetensors", &with_header(&header), b"");
    // Pickles of one byte string that is as long as the file.
    let long = |size: u64| [&b"\x80\x04\x8e"[..], &size.to_le_bytes()].concat();
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    sparse("legacy.pth", &[&magic[..], &long(size)].concat(), b".\x80\x02].");
    sparse("index.json", b"{", b"}");
    let zip64 = |name: &str, records: &[(&str, &[u8], u64)]| {
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        let mut end = 0u64;
        let mut holes = Vec::new();
        for (name, data, hole) in records {
            let size = data.len() as u64 + hole;
            let extra = |offset: u64| {
                [&[1, 0, 24, 0][..], &size.to_le_bytes(), &size.to_le_bytes(), &offset.to_le_bytes()].concat()
            };
            let entry = |out: &mut Vec<u8>| {
                out.extend([0u8; 12]);
                out.extend([0xff; 8]);
                out.extend((name.len() as u16).to_le_bytes());
            };
            directory.extend(b"PK\x01\x02\x2d\0\x2d\0");
            entry(&mut directory);
            directory.extend(28u16.to_le_bytes());
            directory.extend([0u8; 10]);
            directory.extend([0xff; 4]);
            directory.extend(name.as_bytes());
            directory.extend(extra(end));
            let mut local = b"PK\x03\x04\x2d\0".to_vec();
            entry(&mut local);
            local.extend(0u16.to_le_bytes());
            local.extend(name.as_bytes());
            local.extend(*data);
            holes.push((end, local.clone()));
            end += local.len() as u64 + hole;
        }
        out.extend(&directory);
        let wide_end = end + directory.len() as u64;
        out.extend(b"PK\x06\x06");
        out.extend(44u64.to_le_bytes());
        out.extend([45, 0, 45, 0]);
        out.extend([0u8; 8]);
        let count = records.len() as u64;
        [count, count, directory.len() as u64, end].iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend(wide_end.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        out.extend(b"PK\x05\x06\0\0\0\0");
        out.extend([0xff; 12]);
        out.extend([0, 0]);
        let file = fs::File::create(folder.path().join(name)).unwrap();
        let write = |bytes: &[u8], at: u64| std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
        holes.iter().for_each(|(at, bytes)| write(bytes, *at));
        write(&out, end);
    };
    let numbers = size / 4;
    let pickle = format!(
        "(dS'x'\nctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI6\ntQI0\n(I{numbers}\nt(I1\ntI00\n(dtRs."
    );
    zip64("large.pth", &[("a/data.pkl", pickle.as_bytes(), 0), ("a/data/0", b"", size)]);
    zip64("pickle.pth", &[("a/data.pkl", &long(size), size)]);

    // 3 GB of addresses.
    let program = env::current_exe().unwrap();
    let status = Command::new("sh")
        .args(["-c", "ulimit -v 3000000 && exec \"$0\" --exact child_with_little_memory --nocapture"])
        .arg(program)
        .env(CHILD, folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}
