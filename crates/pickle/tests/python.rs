//! Pickles that Python wrote (`tests/golden/make_pth.py`), in every protocol, and mutations of them.

#[path = "../../../tests/support/checkout.rs"]
mod checkout;

use std::fs;

use kiln_pickle::{Error, NUMPY, Node, NumpyArray, Pickle, Result, Value, load, load_within};
use proptest::prelude::*;

fn golden(name: &str) -> Vec<u8> {
    let path = checkout::path("tests/golden/pth").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn with_numpy(bytes: &[u8]) -> Result<Pickle<'_>> {
    load(bytes, &|module, name| NUMPY.contains(&(module, name)))
}

fn ints(value: Value) -> Vec<i128> {
    let int = |v: Value| v.wide_int().unwrap_or_else(|| panic!("{v:?}"));
    value.items().unwrap().map(int).collect()
}

#[test]
fn plain_data_of_every_protocol() {
    for protocol in 0..6 {
        let bytes = golden(&format!("plain_{protocol}.pkl"));
        let pickle = load(&bytes, &|module, name| (module, name) == ("_codecs", "encode")).unwrap();
        assert_eq!(pickle.consumed(), bytes.len());
        let get = |key: &str| pickle.root().get(key).unwrap();
        assert!(get("none").is_none());
        assert_eq!(get("flags").items().unwrap().map(Value::bool).collect::<Vec<_>>(), [Some(true), Some(false)]);
        let numbers = [0, 255, -1, 65535, 70000, -(1 << 31), 1 << 40, -(1i128 << 70)];
        assert_eq!(ints(get("ints")), numbers);
        assert_eq!((get("float").float(), get("float").int()), (Some(-1.5), None));
        assert_eq!(get("text").text().unwrap(), "caf\u{e9} \u{20ac} \u{1f600} \\ \n");
        assert_eq!(get("bytes").bytes().unwrap(), &b"\x00\x80\xff"[..]);
        assert_eq!(ints(get("long list")), (0..300).collect::<Vec<_>>());
        assert_eq!(get("long text").text().unwrap().len(), 300);
        let nested: Vec<Value> = get("nested").items().unwrap().collect();
        let lengths: Vec<_> = nested.iter().filter_map(|v| v.items().map(|items| items.len())).collect();
        assert_eq!(lengths, [0, 0, 1, 2, 3]);
        assert_eq!(ints(nested[6].get("k").unwrap()), [1]);
        assert_eq!(get("again").id(), get("ints").id(), "one object, twice");
        assert!(pickle.root().get("absent").is_none() && get("float").get("x").is_none());
    }
}

#[test]
fn arrays_of_numpy() {
    for protocol in 0..6 {
        let bytes = golden(&format!("arrays_{protocol}.pkl"));
        let pickle = with_numpy(&bytes).unwrap();
        let get = |key: &str| pickle.root().get(key).unwrap().numpy().unwrap_or_else(|| panic!("{protocol} {key}"));
        let NumpyArray { dtype, big_endian, shape, fortran, bytes } = get("u1");
        assert_eq!((&*dtype, big_endian, &shape[..], fortran), ("u1", false, &[2, 3][..], false));
        assert_eq!(bytes, &[0, 1, 2, 3, 4, 5][..]);
        let floats =
            |bytes: &[u8]| bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>();
        let array = get("fortran");
        assert!(array.fortran && array.dtype == "f4");
        assert_eq!(floats(&array.bytes), [0., 3., 1., 4., 2., 5.]);
        assert!(get("big").big_endian && get("big").bytes[..8] == [0, 0, 0, 0, 0, 0, 0, 1]);
        let scalar = get("scalar");
        assert_eq!((&scalar.shape[..], &*scalar.bytes), (&[][..], &0.75f64.to_le_bytes()[..]));
        assert_eq!((get("empty").shape, get("empty").bytes.len()), (vec![0, 3], 0));
    }
}

#[test]
fn a_batch_of_cifar_as_python_2_wrote_it() {
    let bytes = golden("cifar_2.pkl");
    let pickle = with_numpy(&bytes).unwrap();
    let get = |key: &str| pickle.root().get(key).unwrap();
    assert_eq!(get("batch_label").text().unwrap(), "training batch 1 of 5");
    assert_eq!(ints(get("labels")), [6, 9]);
    let names: Vec<_> = get("filenames").items().unwrap().filter_map(Value::text).collect();
    assert_eq!(names, ["a_s.png", "b_s.png"]);
    let data = get("data").numpy().unwrap();
    assert_eq!((&*data.dtype, &data.shape[..], &*data.bytes), ("u1", &[2, 4][..], &[1, 2, 3, 4, 5, 6, 254, 255][..]));
}

#[test]
fn what_is_not_data_is_named_and_not_run() {
    let refused = |bytes: &[u8]| with_numpy(bytes).unwrap_err();
    // os.system("…"), by each way to name a function.
    for bytes in [
        &b"cos\nsystem\n(S'true'\ntR."[..],
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"(cos\nsystem\nS'true'\no.",
    ] {
        let error = refused(bytes);
        assert!(matches!(&error, Error::Class { module, name, .. } if module == "os" && name == "system"), "{error}");
        assert!(error.to_string().contains("os.system"), "{error}");
    }
    assert_eq!(refused(b"\x80\x02\x82\x01."), Error::Opcode { code: 0x82, at: 2 });
    assert!(refused(b"N\xffN.").to_string().contains("0xff at byte 1"));
    for (bytes, what) in [
        (&b"."[..], "stack is empty"),
        (b"t.", "no mark"),
        (b"N(\x85.", "stack is empty"),
        (b"(N1N0.", "stack is empty"),
        (b"h\x05.", "has not made"),
        (b"NNs.", "stack is empty"),
        (b"NNNs.", "keys for a value that takes none"),
        (b"(Nd.", "key without"),
        (b"Na.", "stack is empty"),
        (b"NNR.", "call of something other"),
        (b"]Nb.", "state for a value that has none"),
        (b"I1x\n.", "integer"),
        (b"L-\n.", "integer"),
        (b"c\xff\nx\n.", "not text"),
    ] {
        let error = refused(bytes).to_string();
        assert!(error.contains(what), "{bytes:?}: {error}");
    }
    for bytes in [&b""[..], b"X\xff\xff\xff\xffab", b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffab", b"I12", b"(N"] {
        assert!(matches!(refused(bytes), Error::Cut { .. }), "{bytes:?}");
    }
}

#[test]
fn a_pickle_may_hold_itself_and_grow_only_with_its_length() {
    // l = []; l.append(l)
    let pickle = with_numpy(b"]q\x00h\x00a.").unwrap();
    let root = pickle.root();
    assert_eq!(root.items().unwrap().next().unwrap().id(), root.id());
    // Each list holds the one before twice: 2^30 leaves, 31 nodes.
    let mut bytes = b"]".to_vec();
    for _ in 0..30 {
        bytes.extend(b"2\x86");
    }
    bytes.push(b'.');
    assert_eq!(with_numpy(&bytes).unwrap().root().items().unwrap().len(), 2);
    let error = load_within(&bytes, &|_, _| true, 100).unwrap_err();
    assert_eq!(error, Error::MemoryLimit { limit: 100 });
}

/// What plain data does not have, but files with tensors beside it do.
#[test]
fn values_of_any_kind_are_read() {
    let read = |bytes: &'static [u8]| load(bytes, &|_, _| true).unwrap_or_else(|e| panic!("{bytes:?}: {e}"));
    // Integers of more than 128 bits: their sign and size may be no concern, but they are no reason to fail.
    assert!(
        matches!(read(b"\x8a\x11\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01.").root().node(), Node::BigInt(b) if b.len() == 17)
    );
    assert_eq!(read(b"L-170141183460469231731687303715884105728L\n.").root().wide_int(), Some(i128::MIN));
    let digits = read(b"L999999999999999999999999999999999999999999L\n.");
    assert!(matches!(digits.root().node(), Node::BigInt(_)) && digits.root().wide_int().is_none());
    // A lone surrogate, as in a file name that is no Unicode.
    assert_eq!(read(b"X\x04\0\0\0a\xed\xb2\x80.").root().text().unwrap(), "a\u{fffd}\u{fffd}\u{fffd}");
    // getattr(m.Color, "RED"), and a call of what a call gives.
    assert_eq!(
        read(b"c__builtin__\ngetattr\n(cm\nColor\nX\x03\0\0\0REDtR.").root().class(),
        Some(("__builtin__", "getattr"))
    );
    assert_eq!(read(b"cm\nf\n)R)R.").root().class(), Some(("m", "f")));
    // NEWOBJ_EX with keywords, and a state.
    let object = read(b"cm\nC\n)}X\x01\0\0\0kK\x01s\x92}X\x01\0\0\0aK\x02sb.");
    assert_eq!(object.root().class(), Some(("m", "C")));
    assert_eq!(object.root().state().unwrap().get("a").unwrap().int(), Some(2));
    assert!(object.root().object().unwrap().keywords.is_some());
    // copyreg._reconstructor(m.C, object, None), as protocols 0 and 1 write instances.
    let old = read(b"ccopy_reg\n_reconstructor\n(cm\nC\nc__builtin__\nobject\nNtR.");
    assert_eq!(old.root().class(), Some(("m", "C")));
    // A class of modules in the older format of torch.save.
    let module = read(b"(X\x06\0\0\0modulecm\nNet\nNNtQ)\x81.");
    assert_eq!(module.root().class(), Some(("m", "Net")));
}

fn sources() -> Vec<Vec<u8>> {
    let names = (0..6).flat_map(|p| [format!("plain_{p}.pkl"), format!("arrays_{p}.pkl")]);
    names.chain(["cifar_2.pkl".to_owned()]).map(|name| golden(&name)).collect()
}

/// Looks at everything that can be looked at.
fn walk(pickle: &Pickle) {
    let (mut stack, mut seen) = (vec![pickle.root()], std::collections::HashSet::new());
    while let Some(value) = stack.pop() {
        if !seen.insert(value.id()) {
            continue;
        }
        let _ = (value.text(), value.bytes(), value.numpy(), value.int(), value.global());
        stack.extend(value.items().into_iter().flatten());
        stack.extend(value.pairs().into_iter().flatten().flat_map(|(k, v)| [k, v]));
        stack.extend(value.call().into_iter().flat_map(|(_, arguments)| arguments));
        stack.extend(value.state());
        let _ = (value.class(), value.wide_int());
        stack.extend(value.persistent());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn mutations_are_errors_or_data(
        which in 0usize..13,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let mut bytes = sources().swap_remove(which);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(pickle) = with_numpy(&bytes) {
            walk(&pickle);
        }
    }

    #[test]
    fn noise_is_an_error_or_data(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(pickle) = load(&bytes, &|_, _| true) {
            walk(&pickle);
        }
    }
}
