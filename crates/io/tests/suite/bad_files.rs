//! Invalid files: an error that names the file, never a panic, never wrong values.

use std::{fs, path::Path};

use crate::rewrite::rewrite;
use kiln_io::{Checkpoint, Metadata, load, save_with_metadata};
use kiln_tensor::{Device, ErrorKind, StateDict, Tensor};
use proptest::prelude::*;
use tempfile::tempdir;

/// The message of the error that loading a file with these bytes gives.
fn error_of(path: &Path, bytes: &[u8]) -> String {
    rewrite(path, bytes);
    let error = load(path, Device::Cpu).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::File { .. } | ErrorKind::Io { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(path.to_str().unwrap()), "{message}");
    message
}

fn with_header(header: &str, values: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + values, 0);
    out
}

fn small_file(path: &Path) -> Vec<u8> {
    let mut state = StateDict::new();
    state.insert("a".into(), Tensor::new([[1f32, 2.0], [3.0, 4.0]], Device::Cpu).unwrap());
    state.insert("b".into(), Tensor::new([1i64, -1], Device::Cpu).unwrap());
    state.insert("c".into(), Tensor::new([true, false, true], Device::Cpu).unwrap());
    save_with_metadata(path, &state, &Metadata::from([("epoch".into(), "12".into())])).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn headers_that_lie_are_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    let check = |bytes: &[u8], expected: &str| {
        let message = error_of(&path, bytes);
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    };
    check(b"", "0 bytes");
    check(b"abc", "3 bytes");
    check(&[0xff; 64], "header length of 18446744073709551615");
    check(&[&200u64.to_le_bytes()[..], b"{}"].concat(), "cut off after 2");
    check(&with_header("{", 0), "header");
    check(&with_header("[1, 2]", 0), "header");
    check(&with_header("\u{0}", 0), "header");
    check(&with_header(&"[".repeat(100_000), 0), "header");
    check(&with_header("{}", 7), "declares 0 bytes of values, but it holds 7");

    let one = |dtype: &str, shape: &str, start: u64, end: u64| {
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}}}"#)
    };
    check(&with_header(&one("F32", "[4]", 0, 16), 15), "declares 16 bytes of values, but it holds 15");
    check(&with_header(&one("F32", "[4]", 0, 12), 12), "header");
    check(&with_header(&one("F32", "[4]", 4, 20), 20), "w");
    check(&with_header(&one("F32", "[4]", 16, 0), 16), "header");
    check(&with_header(&one("F32", "[-4]", 0, 16), 16), "header");
    check(&with_header(&one("F32", "[4.5]", 0, 16), 16), "header");
    check(&with_header(&one("F33", "[4]", 0, 16), 16), "F33");
    check(&with_header(&one("U16", "[4]", 0, 8), 8), "U16");
    check(&with_header(&one("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4), 4), "more than 8 dimensions");
    check(&with_header(&one("F32", "[4294967296,4294967296,4294967296]", 0, 16), 16), "header");
    check(&with_header(&one("F32", "[0,18446744073709551615,8]", 0, 0), 0), "w");
    check(&with_header(r#"{"w":{"dtype":"F32","shape":[1]}}"#, 4), "data_offsets");

    let two = |first: &str, second: &str| {
        let tensor = |offsets: &str| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#);
        format!(r#"{{"a":{},"b":{}}}"#, tensor(first), tensor(second))
    };
    check(&with_header(&two("[0,4]", "[2,6]"), 6), "overlap");
    check(&with_header(&two("[0,4]", "[0,4]"), 4), "overlap");
    check(&with_header(&two("[0,4]", "[8,12]"), 12), "gap");

    // A name that appears twice: which of the two is meant?
    let twice =
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    check(&with_header(twice, 2), "\"a\" appears twice");
    check(&with_header(r#"{"__metadata__":{"a":"1"},"__metadata__":{"a":"2"}}"#, 0), "appears twice");
    check(&with_header(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0), "\"a\" appears twice");

    // Tensors whose lengths add up to more than 2^64: the sum wraps around to what the file holds.
    let huge = (1u64 << 61) - 1;
    let mut entries = Vec::new();
    for i in 0..8u64 {
        let (start, end) = (i * huge, (i + 1) * huge);
        entries.push(format!(r#""t{i}":{{"dtype":"U8","shape":[{huge}],"data_offsets":[{start},{end}]}}"#));
    }
    check(&with_header(&format!("{{{}}}", entries.join(",")), 32), "more elements than");
}

#[test]
fn folders_and_missing_files_are_errors() {
    let folder = tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("absent")] {
        let message = load(&path, Device::Cpu).unwrap_err().to_string();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("cut.safetensors");
    let whole = small_file(&path);
    for length in 0..whole.len() {
        error_of(&path, &whole[..length]);
    }
    error_of(&path, &[&whole[..], &[0]].concat());
}

#[test]
fn a_flipped_bit_is_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("flipped.safetensors");
    let whole = small_file(&path);
    let key = whole.windows(10).position(|w| w == b"kiln.crc32").unwrap();
    let mut accepted = 0;
    for byte in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[byte] ^= 1 << bit;
            rewrite(&path, &bytes);
            if let Ok(state) = load(&path, Device::Cpu) {
                // Only where the flip hides that there is a checksum; then nothing else is wrong.
                assert!((key - 20..key + 10).contains(&byte), "the flip of bit {bit} of byte {byte} went unnoticed");
                assert_eq!(state.get("a").unwrap().to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
                assert_eq!(state.get("b").unwrap().to_vec::<i64>().unwrap(), [1, -1]);
                accepted += 1;
            }
        }
    }
    assert!(accepted < 200, "{accepted} flips were accepted");
}

#[test]
fn checkpoints_are_told_from_other_files() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("run.ckpt");
    let error = |text: Option<&str>| {
        let metadata = text.map(|text| ("kiln.checkpoint".to_owned(), text.to_owned()));
        save_with_metadata(&path, &StateDict::new(), &metadata.into_iter().collect()).unwrap();
        let message = Checkpoint::load(&path, Device::Cpu).unwrap_err().to_string();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        message
    };
    assert!(error(None).contains("not a training checkpoint"));
    assert!(error(Some("{")).contains("not JSON"));
    assert!(error(Some("[]")).contains("no version"));
    assert!(error(Some(r#"{"version":2}"#)).contains("version 2"));
    assert!(error(Some(r#"{"version":1}"#)).contains("epoch"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_headers_never_panic(
        shape in prop::collection::vec(prop_oneof![0u64..5, any::<u64>()], 0..4),
        start in prop_oneof![0u64..20, any::<u64>()],
        end in prop_oneof![0u64..20, any::<u64>()],
        dtype in prop::sample::select(vec!["F32", "I64", "U8", "BOOL", "F4", "F8_E4M3"]),
        held in 0usize..40,
    ) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("random.safetensors");
        let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}}}"#);
        fs::write(&path, with_header(&header, held)).unwrap();
        if let Ok(state) = load(&path, Device::Cpu) {
            let tensor = state.get("w").unwrap();
            prop_assert_eq!(tensor.numel() * tensor.dtype().size(), held);
        }
    }
}
