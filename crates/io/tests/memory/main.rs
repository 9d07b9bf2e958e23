//! Memory limits of loading: at most ten times the file plus 64 MiB, whatever the file says; and running out of memory
//! is an error that does not abort the process.

mod counting;
#[path = "../support/zip.rs"]
mod zip;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, atomic::Ordering::Relaxed},
};

use counting::{BOUND, Counting, LIVE, REFUSED, peak_of};
use kiln_io::{
    Checkpoint, LoadOptions, Metadata, PthFile, ShardedFile, TensorFile, load, load_model, save_with_metadata,
};
use kiln_tensor::{DType, Device, ErrorKind, StateDict, Tensor};
use tempfile::tempdir;
use zip::archive;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One at a time: what others allocate would be counted.
static TURN: Mutex<()> = Mutex::new(());

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

fn pth(pickle: &[u8]) -> Vec<u8> {
    archive(&[("a/data.pkl", pickle), ("a/data/0", &[0; 4096])])
}

/// The pickle of a list of 40 elements, each the list before: shared, it is 40 lists; one by one, 40^40 values.
fn shared_lists() -> Vec<u8> {
    let mut shared = b"\x80\x02]q\x00".to_vec();
    for i in 0..40u8 {
        let list = [&b"]("[..], &[b'h', i].repeat(40), &[b'e', b'q', i + 1]].concat();
        shared.extend(list);
    }
    shared.push(b'.');
    shared
}

fn text_in_many_places() -> Vec<u8> {
    [&b"\x80\x02]X\x00\x80\x00\x00"[..], &[b'a'; 0x8000], b"q\x00(", &b"h\x00".repeat(200_000), b"e."].concat()
}

fn memo_entries() -> Vec<u8> {
    (0..400_000u32).flat_map(|i| [&b"Nr"[..], &i.wrapping_mul(99_991).to_le_bytes()].concat()).collect()
}

/// So many entries of a JSON object, each by its number, without the braces.
fn entries(count: usize, entry: impl Fn(usize) -> String) -> String {
    (0..count).map(entry).collect::<Vec<_>>().join(",")
}

const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
const NUMBERS: usize = 2_000_000;

/// What a file is, and what makes its bytes.
type Made = (&'static str, fn() -> Vec<u8>);

/// Files that are small and would be large.
const HOSTILE: [Made; 17] = [
    ("lists that share lists", || pth(&shared_lists())),
    ("a text in many places", || pth(&text_in_many_places())),
    ("4 MB of None", || pth(&list_of(b"N", 4_000_000))),
    ("4 MB of empty lists", || pth(&list_of(b"]", 4_000_000))),
    ("4 MB of empty tuples", || pth(&list_of(b")", 4_000_000))),
    ("4 MB of empty dicts, legacy", || [LEGACY, &list_of(b"}", 4_000_000)].concat()),
    ("4 MB of marks", || pth(&b"(".repeat(4_000_000))),
    ("2 MB of tuples of one", || pth(&[&b"N"[..], &b"\x85".repeat(2_000_000), b"."].concat())),
    ("memo entries far apart", || pth(&memo_entries())),
    ("objects", || pth(&list_of(b"cm\nC\n)R", 300_000))),
    ("30,000 empty tensors", || pth(&tensors(30_000, 0))),
    ("30,000 views of one storage", || pth(&tensors(30_000, 1024))),
    ("300,000 empty tensors", || {
        let empty = |i| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
        with_header(&format!("{{{}}}", entries(300_000, empty)))
    }),
    ("200,000 notes", || {
        with_header(&format!(r#"{{"__metadata__":{{{}}}}}"#, entries(200_000, |i| format!(r#""{i}":"x""#))))
    }),
    ("100,000 shards", || {
        format!(r#"{{"weight_map":{{{}}}}}"#, entries(100_000, |i| format!(r#""{i}":"f{i}""#))).into_bytes()
    }),
    ("numbers in an index", || format!(r#"{{"metadata":[{}0],"weight_map":{{}}}}"#, "0,".repeat(NUMBERS)).into_bytes()),
    ("numbers in a checkpoint", || {
        let numbers = "0,".repeat(NUMBERS);
        with_header(&format!(r#"{{"__metadata__":{{"kiln.checkpoint":"[{numbers}0]","kiln.model":"[{numbers}0]"}}}}"#))
    }),
];

/// A way to read a file, by its name.
type Reader = (&'static str, fn(&Path) -> bool);

/// The part of the files that a process reads.
const PART: &str = "KILN_TEST_PART";
const PARTS: usize = 2;

#[test]
fn a_small_file_stays_small() {
    let _turn = TURN.lock().unwrap();
    let Ok(part) = env::var(PART) else {
        // In processes beside each other: each counts all that it allocates, so it reads one file at a time.
        let start = |part: usize| {
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(["--exact", "a_small_file_stays_small", "--nocapture"]).env(PART, part.to_string());
            command.stdout(Stdio::piped()).spawn().unwrap()
        };
        let parts: Vec<_> = (0..PARTS).map(start).collect();
        for part in parts {
            let output = part.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
        }
        return;
    };
    let folder = tempdir().unwrap();
    let path = folder.path().join("hostile");
    // What is made once, threads and tables.
    let _ = load(&path, Device::Cpu);
    for (what, made) in HOSTILE.iter().skip(part.parse().unwrap()).step_by(PARTS) {
        let bytes = made();
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
    // The other readers, which name the option as well.
    let run = folder.path().join("run.ckpt");
    let weight = Tensor::zeros([1 << 18], Device::Cpu).unwrap();
    let model = StateDict::from([("w".to_owned(), weight)]);
    Checkpoint { model, ..Checkpoint::now() }.save(&run).unwrap();
    let index = folder.path().join("index.json");
    let names: String = (0..2_000).map(|i| format!(r#","{i}":"run.ckpt""#)).collect();
    fs::write(&index, format!(r#"{{"weight_map":{{{}}}}}"#, &names[1..])).unwrap();
    type Limited<'a> = (&'static str, &'a dyn Fn(usize) -> kiln_tensor::Result<()>);
    let readers: [Limited<'_>; 6] = [
        ("Checkpoint::load", &|limit| Checkpoint::load(&run, options(limit)).map(drop)),
        ("TensorFile::open_with", &|limit| TensorFile::open_with(&tensors, options(limit)).map(drop)),
        ("TensorFile::state_dict", &|limit| {
            TensorFile::open_with(&run, options(limit))?.state_dict(Device::Cpu).map(drop)
        }),
        ("TensorFile::tensor", &|limit| {
            TensorFile::open_with(&run, options(limit))?.tensor("model.w", Device::Cpu).map(drop)
        }),
        ("ShardedFile::open_with", &|limit| ShardedFile::open_with(&index, options(limit)).map(drop)),
        ("load_model", &|limit| match load_model(&run, options(limit)) {
            Err(e) if !e.to_string().contains("no architecture") => Err(e),
            _ => Ok(()),
        }),
    ];
    for (name, read) in readers {
        let least = if name == "load_model" { 1 << 7 } else { 1 << 18 };
        let message = read(least).unwrap_err().to_string();
        assert!(message.contains("`LoadOptions::memory_limit`") && message.contains(&least.to_string()), "{message}");
        read(8 << 20).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    // A checkpoint is not loaded in part, or changed.
    for options in [LoadOptions::default().dtype(DType::BF16), LoadOptions::default().strip_prefix("model.")] {
        assert!(matches!(Checkpoint::load(&run, options).unwrap_err().kind(), ErrorKind::Argument { .. }));
    }
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

    // 1 GB of addresses: the reader of old files, which reads four times as much until a pickle ends, has then read 0.3 GB.
    let program = env::current_exe().unwrap();
    let status = Command::new("sh")
        .args(["-c", "ulimit -v 1000000 && exec \"$0\" --exact child_with_little_memory --nocapture"])
        .arg(program)
        .env(CHILD, folder.path())
        .env("RAYON_NUM_THREADS", "1")
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// What reads each of the files of many parts.
fn readers() -> [(&'static str, Read); 6] {
    let state: Read = |path| load(path, Device::Cpu).map(|state| state.len());
    [
        ("many.safetensors", state),
        ("index.json", state),
        ("many.pth", state),
        ("legacy.pth", state),
        ("run.ckpt", |path| Checkpoint::load(path, Device::Cpu).map(|checkpoint| checkpoint.model.len())),
        ("model.kiln", |path| load_model(path, Device::Cpu).map(|_| 4)),
    ]
}

/// Writes valid files of many parts.
fn write_files_of_many_parts(folder: &Path) {
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    // Many short names, some long ones, and one with escapes.
    let names = |i: usize| match i % 100 {
        7 => format!("{i}{}", "long".repeat(2_000)),
        8 => format!("{i}{}", "\\u00e9".repeat(300)),
        _ => format!("layer.{i}.weight"),
    };
    let entries: String = (0..3_000)
        .map(|i| {
            format!(r#","{}":{{"dtype":"F32","shape":[2,2],"data_offsets":[{},{}]}}"#, names(i), 16 * i, 16 * i + 16)
        })
        .collect();
    let notes: String = (0..500).map(|i| format!(r#","note {i}":"{}""#, "n".repeat(700))).collect();
    let values = vec![0; 16 * 3_000];
    let many = [with_header(&format!(r#"{{"__metadata__":{{{}}}{entries}}}"#, &notes[1..])), values.clone()].concat();
    let weights: String = (0..3_000).map(|i| format!(r#","{}":"many.safetensors""#, names(i))).collect();
    let index = format!(r#"{{"metadata":{{"total_size":[1,2,3]}},"weight_map":{{{}}}}}"#, &weights[1..]);
    let numbers = Tensor::zeros([64, 64], Device::Cpu).unwrap();
    let state: StateDict = (0..300).map(|i| (format!("layer.{i}.weight"), numbers.copy().unwrap())).collect();
    let mut checkpoint = Checkpoint { model: state.clone(), optimizer: state.clone(), ..Checkpoint::now() };
    checkpoint.put("history", &(0..3_000).map(|i| (format!("step {i}"), f64::from(i))).collect::<Vec<_>>()).unwrap();
    checkpoint.save(folder.join("run.ckpt")).unwrap();
    let model = kiln_nn::seq![kiln_nn::Linear::new(200, 300).unwrap(), kiln_nn::Linear::new(300, 5).unwrap()];
    kiln_io::save_model(folder.join("model.kiln"), &model).unwrap();
    let pickle = {
        // Texts of Latin-1, long and short ones, lists, objects, big numbers, and bytes as old protocols write them.
        let latin = format!("S'{}'\n", "\\xe9".repeat(3_000)).repeat(5);
        let lists = "(lI7\naI8\na".repeat(3_000);
        let objects = "cargparse\nNamespace\n)R".repeat(2_000);
        let integers = format!("L{}L\n", "7".repeat(30)).repeat(1_000);
        let bytes = format!("c_codecs\nencode\n(V{}\nVlatin1\ntR", "\u{e9}".repeat(9_000)).replace('\u{e9}', "\\u00e9");
        let tensors = tensors(3_000, 4);
        let tensors = std::str::from_utf8(&tensors[..tensors.len() - 1]).unwrap();
        format!("(dS'weights'\n{tensors}sS'rest'\n(l({latin}{lists}{objects}{integers}{bytes}es.").into_bytes()
    };
    let legacy = {
        let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
        [&magic[..], &pickle, b"(lS'0'\na.", &1024u64.to_le_bytes(), &[0; 4096]].concat()
    };
    write("many.safetensors", &many);
    write("index.json", index.as_bytes());
    write("many.pth", &archive(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 4096])]));
    write("legacy.pth", &legacy);
}

type Read = fn(&Path) -> kiln_tensor::Result<usize>;

/// Not a test by itself: the process whose memory runs out, of the parts of a file one after the other.
#[test]
fn child_with_every_bound() {
    let Some(folder) = env::var_os(BOUNDED).map(PathBuf::from) else { return };
    write_files_of_many_parts(&folder);
    for (name, read) in readers() {
        let path = folder.join(name);
        let (whole, peak) = peak_of(|| read(&path).unwrap());
        assert!(whole > 3, "{path:?}: {whole}");
        let (mut bound, mut refused) = (0, 0);
        loop {
            eprintln!("{path:?} within {bound} of {peak} bytes");
            let live = LIVE.load(Relaxed);
            REFUSED.store(usize::MAX, Relaxed);
            BOUND.store(live + bound, Relaxed);
            let result = read(&path);
            BOUND.store(usize::MAX, Relaxed);
            match result {
                Ok(count) if count == whole => break,
                result => {
                    let refusal = result.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::OutOfMemory { .. }));
                    assert!(refusal, "{path:?} within {bound}: {result:?}");
                    refused += 1;
                }
            }
            assert!(bound < 3 * peak + (8 << 20), "{path:?} takes {peak}, and is refused with {bound}");
            // With all bounds below the least that admits more, the same is refused.
            bound = REFUSED.load(Relaxed) - live;
        }
        println!("{path:?}: refused {refused} times");
        assert!(refused > 0, "{path:?} was never refused");
    }
}

const BOUNDED: &str = "KILN_TEST_EVERY_BOUND";

#[test]
fn memory_that_runs_out_anywhere_is_an_error() {
    let _turn = TURN.lock().unwrap();
    let folder = tempdir().unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "child_with_every_bound", "--nocapture", "--test-threads", "1"]);
    // Backtraces take memory, too.
    let output = command.env("RUST_BACKTRACE", "0").env(BOUNDED, folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let last: Vec<&str> = text.lines().rev().take(12).collect();
    assert!(output.status.success(), "{}: {last:#?}", output.status);
}

/// Not a test by itself: the process that has few addresses.
#[test]
fn child_with_few_addresses() {
    let Some(folder) = env::var_os(LIMITED).map(PathBuf::from) else { return };
    let kilobytes = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap()
    };
    println!("before anything is read: {} kB", kilobytes());
    for (name, read) in readers() {
        match read(&folder.join(name)) {
            Ok(_) => println!("loaded {name}"),
            Err(e) if matches!(e.kind(), ErrorKind::OutOfMemory { .. }) => println!("refused {name}"),
            Err(e) => panic!("{name}: {e}"),
        }
    }
}

const LIMITED: &str = "KILN_TEST_FEW_ADDRESSES";

#[cfg(target_os = "linux")]
#[test]
fn addresses_that_run_out_are_an_error() {
    let _turn = TURN.lock().unwrap();
    let folder = tempdir().unwrap();
    write_files_of_many_parts(folder.path());
    let child = |limit: Option<u64>| {
        let limit = limit.map_or(String::new(), |limit| format!("ulimit -v {limit} && "));
        let run = "exec \"$0\" --exact child_with_few_addresses --nocapture --test-threads 1";
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{limit}{run}")]).arg(env::current_exe().unwrap());
        // glibc reserves addresses for every thread, and backtraces take memory.
        command.env("MALLOC_ARENA_MAX", "1").env("RUST_BACKTRACE", "0").env(LIMITED, folder.path());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{limit}{}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    };
    let said = child(None);
    let start = said.split("before anything is read: ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let start: u64 = start.parse().unwrap();
    let (mut loaded, mut refused) = (0, 0);
    for more in (0..12).map(|step| step * 800).chain([20_000, 60_000]) {
        let said = child(Some(start + more));
        loaded += said.matches("loaded ").count();
        refused += said.matches("refused ").count();
    }
    assert!(loaded > 10 && refused > 10, "{loaded} loaded, {refused} refused");
}
