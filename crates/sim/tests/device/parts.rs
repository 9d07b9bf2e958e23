//! Parts of the simulator by themselves.
use kiln_sim::Refused;
use kiln_sim::parts::{
    Intervals, InvalidCubin, Moved, PtxEntry, PtxError, Range, around, cubin_bytes, moved_and_least, parse_cubin,
    parse_delays, parse_ptx, product,
};

#[test]
fn refusals_are_read() {
    let list: Vec<Refused> = ["fused:1=5000", "data", "any=3"].into_iter().filter_map(Refused::read).collect();
    assert_eq!(list.len(), 3);
    assert_eq!(Refused::find(&list, "fused", 1, 3000), Some(5000));
    assert_eq!(Refused::find(&list, "data", 7, 3000), Some(3000));
    assert_eq!(Refused::find(&list, "fused", 2, 3000), Some(3));
    assert_eq!(Refused::find(&list[..2], "fused", 2, 3000), None);
    for entry in ["", ":1", "data:x", "data=", "=5"] {
        assert_eq!(Refused::read(entry), None, "{entry}");
    }
}

#[test]
fn delays_are_read() {
    assert_eq!(
        parse_delays("cuInit:5, cuEventQuery:70"),
        [("cuInit".to_string(), 5), ("cuEventQuery".to_string(), 70)]
    );
    assert!(["", "cuInit", "cuInit:soon"].iter().all(|text| parse_delays(text).is_empty()));
}

#[test]
fn products_of_odd_extents() {
    for [m, n, k] in [[1, 1, 1], [8, 4, 3], [9, 5, 7], [17, 3, 2], [2, 11, 30]] {
        let a = |row: usize, i: usize| (row * 31 + i * 7 + 1) as f64 % 13.0 - 6.0;
        let b = |i: usize, col: usize| (col * 17 + i * 5 + 2) as f64 % 11.0 - 5.0;
        let got = product([m, n, k], a, b);
        for col in 0..n {
            for row in 0..m {
                let want: f64 = (0..k).map(|i| a(row, i) * b(i, col)).sum();
                assert_eq!(got[row + col * m], want, "{m} {n} {k}: {row} {col}");
            }
        }
    }
}

fn range(begin: u64, end: u64) -> Range {
    Range { begin, end }
}

#[test]
fn ranges_join_and_split() {
    let mut set = Intervals::default();
    assert_eq!(set.gap(range(3, 5)), Some(3));
    for (begin, end) in [(10, 20), (30, 40), (20, 30), (12, 18), (5, 11)] {
        set.insert(range(begin, end));
    }
    assert_eq!((set.ranges().count(), set.gap(range(5, 40))), (1, None));
    assert_eq!((set.gap(range(5, 41)), set.gap(range(4, 6))), (Some(40), Some(4)));
    set.remove(range(15, 25));
    assert_eq!((set.gap(range(5, 40)), set.gap(range(25, 40)), set.gap(range(14, 15))), (Some(15), None, None));
    set.remove(range(0, 100));
    assert_eq!(set.gap(range(30, 31)), Some(30));
}

fn entry(name: &str, reads: &[(u64, u64)], writes: &[(u64, u64)]) -> Moved {
    let ranges = |all: &[(u64, u64)]| all.iter().map(|&(begin, end)| Range { begin, end }).collect();
    let (reads, writes) = (ranges(reads), ranges(writes));
    Moved { name: name.into(), kind: "kernel", grid: [1; 3], reads, writes, aside: 0, flops: 0, data: "" }
}

#[test]
fn what_one_launch_could_keep_to_itself_need_not_be_moved() {
    let conv = entry("conv", &[(0, 100)], &[(100, 200)]);
    let relu = entry("unary_relu_f32", &[(100, 200)], &[(100, 200)]);
    let pool = entry("max_pool_packed", &[(100, 200)], &[(200, 225)]);
    // ReLU could be part of the convolution or of the pooling, and this of the two together.
    assert_eq!(moved_and_least(&[conv.clone(), relu.clone(), pool.clone()]), (525, 125));
    // A library computes what its engines do, and reads its operands from memory.
    let library = |entry: &Moved| Moved { kind: "convolution", ..entry.clone() };
    assert_eq!(moved_and_least(&[library(&conv), relu.clone(), library(&pool)]), (525, 325));
    let gradient = entry("relu_bias_grad_packed_along_f32", &[(100, 200)], &[(100, 200)]);
    assert_eq!(moved_and_least(&[library(&conv), gradient, library(&pool)]), (525, 525));
    // Two readers: the value is needed.
    let twice = [conv.clone(), pool.clone(), entry("unary_exp_f32", &[(100, 200)], &[(300, 400)])];
    assert_eq!(moved_and_least(&twice), (525, 525));
    // Half of it is read by two.
    let half = [conv.clone(), entry("norm", &[(100, 150)], &[]), entry("copy_same", &[(100, 200)], &[(300, 400)])];
    assert_eq!(moved_and_least(&half), (450, 350));
    // What nobody reads before it is overwritten; what is there at the end may be read later.
    assert_eq!(moved_and_least(&[conv.clone(), conv]), (400, 300));
    // A fill, and a value that somebody reads from before.
    assert_eq!(moved_and_least(&[entry("fill_f32", &[], &[(0, 8)]), entry("sum", &[(0, 8)], &[(8, 12)])]), (20, 4));
    assert_eq!(moved_and_least(&[relu]), (200, 200));
    // A result beside a workspace, before it and after it.
    let parts = |range: (u64, u64)| {
        let [range, hole] = [range, (10, 20)].map(|(begin, end)| Range { begin, end });
        around(range, hole).map(|part| (part.begin, part.end)).collect::<Vec<_>>()
    };
    assert_eq!(parts((0, 20)), [(0, 10)]);
    assert_eq!(parts((5, 30)), [(5, 10), (20, 30)]);
    assert_eq!(parts((10, 20)), []);
    assert_eq!(parts((30, 40)), [(30, 40)]);
    // Ranges that lie over each other count once.
    assert_eq!(entry("x", &[(0, 10), (5, 15), (20, 25)], &[]).read(), 20);
}

const TEXT: &str = "// Generated\n.version 7.8\n.target sm_80, debug\n.address_size 64\n\
    .shared .align 4 .b8 outer[128];\n.extern .shared .align 16 .b8 tile[];\n\
    .visible .entry one(\n\t.param .u64 one_param_0,\n\t.param .align 8 .b8 one_param_1[40],\n\t.param .f32 x\n)\n\
    .maxntid 256, 1, 1\n{\n\t.shared .align 4 .b8 inner[64];\n\tmov.u64 %rd1, outer;\n\tret;\n}\n\
    .visible .entry two()\n{\n\tret;\n}\n";

#[test]
fn entries_parameters_and_shared_memory() {
    let ptx = parse_ptx(TEXT).unwrap();
    assert_eq!((ptx.version, ptx.target, ptx.entries.len()), (78, 80, 2));
    assert_eq!(ptx.entries["one"], PtxEntry { parameters: vec![8, 40, 4], max_threads: Some(256), shared: 192 });
    assert_eq!(ptx.entries["two"], PtxEntry::default());
}

#[test]
fn what_is_no_ptx_says_so() {
    assert_eq!(parse_ptx("\x7fELF").unwrap_err(), PtxError::NotPtx);
    assert_eq!(parse_ptx(".version x\n.target sm_80").unwrap_err(), PtxError::Invalid);
    assert_eq!(parse_ptx(".version 7.0\n.target sm_80\n.entry broken(").unwrap_err(), PtxError::Invalid);
}

#[test]
fn cubins_of_both_releases_of_the_format_are_read() {
    for (file, arch, toolkit) in [
        (&include_bytes!("../cubins/sm_80.cuda12.cubin")[..], 80, 129),
        (include_bytes!("../cubins/sm_80.cuda13.cubin"), 80, 135),
        (include_bytes!("../cubins/sm_90.cuda13.cubin"), 90, 135),
    ] {
        let cubin = parse_cubin(file).unwrap();
        assert_eq!((cubin.arch, cubin.toolkit, cubin.entries.len()), (arch, toolkit, 3));
        let entry = |name: &str| cubin.entries[name].clone();
        assert_eq!(entry("t_fill_f32"), PtxEntry { parameters: vec![8, 4, 8], ..PtxEntry::default() });
        assert_eq!(entry("t_axpy_f32").parameters, [8, 8, 4, 24]);
        assert_eq!(entry("t_reverse_f32"), PtxEntry { parameters: vec![8, 8], max_threads: Some(64), shared: 256 });
        // SAFETY: a whole file.
        let whole = unsafe { cubin_bytes(file.as_ptr().cast()) }.unwrap();
        assert_eq!(whole.len(), file.len());
        for cut in [4, 20, 63, 64, 1000, file.len() - 500] {
            assert_eq!(parse_cubin(&file[..cut]).unwrap_err(), InvalidCubin, "{cut} bytes");
        }
    }
    assert_eq!(
        parse_cubin(b"\x7fELF of another machine, which has enough bytes for a header of its own").unwrap_err(),
        InvalidCubin
    );
}
