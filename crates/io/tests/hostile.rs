//! Malicious files: an error that names the file, or only tensors that the file contains; bounded memory, no panic.
//! Valid files of every format are truncated, overwritten and spliced; others are constructed by hand.

#[path = "../../../tests/support/checkout.rs"]
mod checkout;
#[path = "support/zip.rs"]
mod zip;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use kiln_io::{LoadOptions, PthFile, ShardedFile, load, load_model, save, save_model};
use kiln_nn::{Conv2d, Conv2dOptions, Dropout, Flatten, Linear, MaxPool2d, ReLU, seq};
use kiln_tensor::{Device, ErrorKind, StateDict, Tensor, no_grad};
use proptest::prelude::*;
use tempfile::tempdir;
use zip::archive;

/// The most memory that this process has asked for so far, in kB, where the system tells: whether it was used or not.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}

/// No file here is larger than 200 kB; the sizes that they lie about are in gigabytes.
const MOST_KB: u64 = 1 << 20;

fn golden(name: &str) -> PathBuf {
    checkout::path("tests/golden/pth").join(name)
}

/// A small model of every kind of setting.
fn model(path: &Path) -> Vec<u8> {
    let conv = Conv2d::with_options(1, 2, 3, Conv2dOptions::default().padding((1, 0)).stride(2)).unwrap();
    let model = seq![
        conv,
        ReLU::new(),
        MaxPool2d::new(2),
        Flatten::new(),
        Linear::new(4, 3).unwrap(),
        Dropout::new(0.5).unwrap(),
    ];
    save_model(path, &model).unwrap();
    fs::read(path).unwrap()
}

fn safetensors(path: &Path) -> Vec<u8> {
    let tensor = |value: f32| Tensor::full([2, 3], f64::from(value), Device::Cpu).unwrap();
    save(path, &StateDict::from([("a".to_owned(), tensor(1.0)), ("b".to_owned(), tensor(2.0))])).unwrap();
    fs::read(path).unwrap()
}

/// Valid files of all formats.
fn corpus() -> Vec<Vec<u8>> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x");
    let mut files = vec![model(&path), safetensors(&path)];
    files.push(br#"{"metadata":{"total_size":48},"weight_map":{"a":"x","b":"x"}}"#.to_vec());
    let names = ["dtypes", "views", "checkpoint"].map(|name| [format!("{name}_zip.pth"), format!("{name}_legacy.pth")]);
    files.extend(names.iter().flatten().map(|name| fs::read(golden(name)).unwrap()));
    files.extend(["big_endian.pth", "parameters.pth", "compressed.pth"].map(|name| fs::read(golden(name)).unwrap()));
    files
}

/// Reads a file in every way there is. What comes of it must be whole.
fn read(path: &Path) {
    let check = |error: &kiln_tensor::Error| {
        let known = matches!(error.kind(), ErrorKind::File { .. } | ErrorKind::Io { .. });
        assert!(known && error.to_string().contains(path.parent().unwrap().to_str().unwrap()), "{error}");
    };
    match load(path, Device::Cpu) {
        Ok(state) => {
            for tensor in state.values() {
                // What is broadcast is large only when it is copied.
                if tensor.numel() < 1 << 16 {
                    assert_eq!(tensor.copy().unwrap().dims(), tensor.dims());
                }
            }
        }
        Err(error) => check(&error),
    }
    match load_model(path, Device::Cpu) {
        Ok(model) => {
            // Whatever its settings are now: a result or an error.
            let x = Tensor::ones([2, 1, 5, 4], Device::Cpu).unwrap();
            let _ = no_grad(|| model.forward(&x));
            let _ = model.to_string();
        }
        Err(error) => check(&error),
    }
    if let Err(error) = PthFile::open(path) {
        check(&error);
    }
    if let Err(error) = ShardedFile::open(path) {
        check(&error);
    }
}

/// One change of a file.
#[derive(Clone, Debug)]
enum Edit {
    Put(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    /// A number of 1, 2, 4 or 8 bytes where numbers go wrong.
    Number(prop::sample::Index, u64, usize),
    Cut(prop::sample::Index),
    /// A piece is left out, or comes twice.
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Digit(prop::sample::Index, u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>;
    let edges = prop::sample::select(vec![0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 62, u64::MAX]);
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(i, b)| Edit::Put(i, b)),
        (at(), 0u8..8).prop_map(|(i, b)| Edit::Flip(i, b)),
        (at(), edges, prop::sample::select(vec![1usize, 2, 4, 8])).prop_map(|(i, v, n)| Edit::Number(i, v, n)),
        at().prop_map(Edit::Cut),
        (at(), 1usize..40).prop_map(|(i, n)| Edit::Remove(i, n)),
        (at(), 1usize..40).prop_map(|(i, n)| Edit::Repeat(i, n)),
        (at(), b'0'..=b'9').prop_map(|(i, b)| Edit::Digit(i, b)),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match *edit {
        Edit::Put(at, byte) => bytes[at.index(length)] = byte,
        Edit::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
        Edit::Number(at, value, count) => {
            let at = at.index(length);
            let end = (at + count).min(length);
            bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        }
        Edit::Cut(at) => bytes.truncate(at.index(length)),
        Edit::Remove(at, count) => {
            let at = at.index(length);
            bytes.drain(at..(at + count).min(length));
        }
        Edit::Repeat(at, count) => {
            let at = at.index(length);
            let piece = bytes[at..(at + count).min(length)].to_vec();
            bytes.splice(at..at, piece);
        }
        Edit::Digit(at, digit) => {
            // A digit of a number in text.
            let from = at.index(length);
            if let Some(found) = bytes[from..].iter().position(u8::is_ascii_digit) {
                bytes[from + found] = digit;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn changed_files_are_errors_or_tensors(
        which in 0usize..12,
        edits in prop::collection::vec(edit(), 1..4),
        // So that the checks after the checksum of Kiln's files are reached, too.
        without_checksum in any::<bool>(),
    ) {
        static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(corpus);
        static START: LazyLock<u64> = LazyLock::new(peak);
        let mut bytes = CORPUS[which].clone();
        LazyLock::force(&START);
        for edit in &edits {
            apply(&mut bytes, edit);
        }
        if without_checksum && let Some(at) = bytes.windows(10).position(|w| w == b"kiln.crc32") {
            bytes[at] = b'K';
        }
        let folder = tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, &bytes).unwrap();
        read(&path);
        prop_assert!(peak() < *START + MOST_KB, "{} kB, after {} at the start", peak(), *START);
    }
}

/// The pickle of `{"x": _rebuild_tensor_v2(storage "0" of floats, offset, dims, strides, …)}` in protocol 0.
fn pickled(offset: &str, dims: &[&str], strides: &[&str]) -> Vec<u8> {
    let tuple = |items: &[&str]| format!("({}t", items.iter().map(|n| format!("I{n}\n")).collect::<String>());
    let storage = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI6\ntQ";
    let (dims, strides) = (tuple(dims), tuple(strides));
    format!("(dS'x'\nctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n{dims}{strides}I00\n(dtRs.").into_bytes()
}

fn with_pickle(folder: &Path, pickle: &[u8]) -> PathBuf {
    let path = folder.join("x.pth");
    fs::write(&path, archive(&[("a/data.pkl", pickle), ("a/data/0", &[0; 24])])).unwrap();
    path
}

#[test]
fn views_that_are_not_there_are_refused() {
    let folder = tempdir().unwrap();
    let view = |offset: &str, dims: &[&str], strides: &[&str]| {
        let path = with_pickle(folder.path(), &pickled(offset, dims, strides));
        load(&path, Device::Cpu).map_err(|e| e.to_string())
    };
    assert_eq!(view("2", &["2", "2"], &["2", "1"]).unwrap()["x"].dims(), [2, 2]);
    assert_eq!(view("9", &["0", "7"], &["1", "1"]).unwrap()["x"].dims(), [0, 7]);
    // One number that says to be a terabyte: it stays one number.
    assert_eq!(view("0", &["274877906944"], &["0"]).unwrap()["x"].strides(), [0]);
    for (offset, dims, strides, want) in [
        ("3", &["2", "2"][..], &["2", "1"][..], "inside its storage"),
        ("0", &["7"], &["1"], "inside its storage"),
        ("18446744073709551615", &["1"], &["1"], "invalid"),
        ("9223372036854775807", &["2"], &["9223372036854775807"], "inside its storage"),
        ("-1", &["1"], &["1"], "invalid"),
        ("0", &["2"], &["-1"], "invalid"),
        ("0", &["2", "2"], &["1"], "invalid"),
        ("0", &["5", "2"], &["1", "1"], "overlaps itself"),
        ("0", &["4294967296", "4294967296", "4294967296"], &["0", "0", "0"], "more elements than"),
        ("0", &["1", "1", "1", "1", "1", "1", "1", "1", "1"], &["1"; 9], "8 dimensions"),
        ("0", &["1"; 100], &["1"; 100], "invalid"),
    ] {
        let message = view(offset, dims, strides).unwrap_err();
        assert!(message.contains(want) && message.contains("x.pth"), "{offset} {dims:?}: {message}");
    }
}

#[test]
fn pickles_that_grow_or_turn_are_refused() {
    let folder = tempdir().unwrap();
    let error = |pickle: &[u8]| load(with_pickle(folder.path(), pickle), Device::Cpu).unwrap_err().to_string();
    // A list in itself.
    assert!(error(b"]q\x00h\x00a.").contains("no dict of tensors"));
    // Each list twice in the next: 2^60 values, which are 60 lists.
    let doubling = [&b"]"[..], &b"2\x86".repeat(60), b"."].concat();
    assert!(error(&doubling).contains("no dict of tensors"));
    // A long text in many places.
    let text = [&b"(T\xa0\x86\x01\x00"[..], &[b'a'; 100_000], b"q\x00", &b"h\x00".repeat(100_000), b"l."].concat();
    assert!(error(&text).contains("memory_limit"));
    // Lists in lists, deeper than any stack; and deeper each time that they are named.
    let deep = [&b"]".repeat(100_000)[..], &b"a".repeat(99_999), b"."].concat();
    assert!(error(&deep).contains("no dict of tensors"));
    let mut ladder = b"(]q\x00".to_vec();
    for _ in 0..20_000 {
        ladder.extend(b"](h\x00eq\x00");
    }
    let message = error(&[&ladder[..], b"l."].concat());
    assert!(message.contains("no dict of tensors"), "{message}");
    // A parameter of a parameter of …
    let open = b"ctorch._utils\n_rebuild_parameter\n(".repeat(200);
    let close = b"I01\n(dtR".repeat(200);
    let nested = [&b"(dS'x'\n"[..], &open, b"N", &close, b"s."].concat();
    assert!(!error(&nested).is_empty());
    // A tensor in itself.
    assert!(!error(b"(dS'x'\nctorch._utils\n_rebuild_parameter\n(Np0\nI01\n(dtRp1\ns.").is_empty());
    // Classes and functions are named, never called; a file of nothing else is no file of tensors.
    for (pickle, want) in [
        (&b"cos\nsystem\n(S'true'\ntR."[..], "os.system"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"c__builtin__\ngetattr\n.", "no dict of tensors"),
        (b"ctorch.storage\n_load_from_bytes\n(S''\ntR.", "torch.storage._load_from_bytes"),
        (b"c__main__\nNet\n)R.", "__main__.Net"),
        (b"\x82\x01.", "0x82"),
    ] {
        let message = error(pickle);
        assert!(message.contains(want), "{message}");
    }
}

#[test]
fn many_views_of_one_storage_are_not_loaded() {
    let folder = tempdir().unwrap();
    let values = vec![0u8; 4 * 10_000];
    let item = |i: usize| {
        let storage = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI10000\ntQ";
        format!(
            "S'{i}'\nctorch._utils\n_rebuild_tensor_v2\n({storage}I{}\n(I{}\nt(I1\ntI00\n(dtRs",
            i % 1000,
            9000 - i / 1000
        )
    };
    let pickle = format!("(d{}.", (0..5000).map(item).collect::<String>());
    let path = folder.path().join("x.pth");
    fs::write(&path, archive(&[("a/data.pkl", pickle.as_bytes()), ("a/data/0", &values)])).unwrap();
    let message = load(&path, Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("memory_limit"), "{message}");
    let state = load(&path, LoadOptions::default().memory_limit(1 << 30)).unwrap();
    assert_eq!(state.len(), 5000);
}

#[test]
fn archives_that_lie_are_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.pth");
    let pickle = pickled("0", &["6"], &["1"]);
    let error = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let message = load(&path, Device::Cpu).unwrap_err().to_string();
        assert!(message.contains("x.pth"), "{message}");
        message
    };
    let whole = archive(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 24])]);
    fs::write(&path, &whole).unwrap();
    assert_eq!(load(&path, Device::Cpu).unwrap()["x"].dims(), [6]);
    for length in 0..whole.len() {
        error(&whole[..length]);
    }
    assert!(error(&archive(&[("a/data.pkl", &pickle)])).contains("does not have"));
    assert!(error(&archive(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 20])])).contains("inside its storage"));
    assert!(error(&archive(&[("a/data.pkl", b"")])).contains("cut off"));
    assert!(error(&archive(&[("a/data.pkl", &pickle), ("a/constants.pkl", b"")])).contains("TorchScript"));
    assert!(error(&archive(&[("a/data.pkl", &pickle), ("a/byteorder", b"middle")])).contains("byte order"));
    // A record that reaches into the next, and a size that is not there.
    let mut lying = whole.clone();
    let directory = lying.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    lying[directory + 20..directory + 28].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f]);
    error(&lying);
    // Bombs: what is packed is never unpacked, and no byte is in two records.
    let mut packed = whole.clone();
    let local = packed.windows(4).position(|w| w == b"PK\x03\x04").unwrap();
    for (start, method, size) in [(local, 8, 22), (directory, 10, 24)] {
        packed[start + method] = 8;
        packed[start + size..start + size + 4].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
    }
    assert!(error(&packed).contains("compressed"));
    let twice = |count: u16| {
        let entry = whole[directory..].windows(4).skip(1).position(|w| w == b"PK\x01\x02").unwrap() + 1;
        let mut out = whole[..directory].to_vec();
        out.extend(whole[directory..][..entry].repeat(usize::from(count)));
        let end = out.len() as u32 - directory as u32;
        out.extend(b"PK\x05\x06\0\0\0\0");
        [count, count].iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(end.to_le_bytes());
        out.extend((directory as u32).to_le_bytes());
        out.extend([0, 0]);
        out
    };
    assert!(error(&twice(1)).contains("does not have"), "one record alone is an archive");
    error(&twice(1000));
    // PyTorch writes checksums; a flipped bit among the values shows.
    let mut flipped = fs::read(golden("parameters.pth")).unwrap();
    let name = b"parameters/data/0FB";
    let at = flipped.windows(name.len()).position(|w| w == name).unwrap();
    // The last byte before the next record.
    let end = at + flipped[at..].windows(2).position(|w| w == b"PK").unwrap();
    flipped[end - 1] ^= 1;
    assert!(error(&flipped).contains("checksum"));
}

#[test]
fn an_index_points_to_files_beside_it_only() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors.index.json");
    safetensors(&folder.path().join("part-1"));
    let index = |file: &str| {
        fs::write(&path, format!(r#"{{"weight_map":{{"b":{file:?},"a":{file:?}}}}}"#)).unwrap();
        load(&path, Device::Cpu).map_err(|e| e.to_string())
    };
    let state = index("part-1").unwrap();
    assert_eq!(state.keys().collect::<Vec<_>>(), ["b", "a"], "the order of the index");
    assert_eq!(state["b"].to_vec::<f32>().unwrap(), [2.0; 6]);
    for bad in ["../part-1", "/etc/passwd", "", ".", "..", "x/part-1"] {
        let message = index(bad).unwrap_err();
        assert!(message.contains("not a file beside"), "{bad:?}: {message}");
    }
    assert!(index("part-2").unwrap_err().contains("part-2"));
    fs::write(&path, r#"{"weight_map":{"c":"part-1"}}"#).unwrap();
    assert!(load(&path, Device::Cpu).unwrap_err().to_string().contains("no tensor \"c\""));
}
