//! Operations against the values and gradients that PyTorch computed. Each operation is a separate test, `cargo test -p
//! kiln-tensor cumsum`, over all its cases in `tests/golden`.
//!
//! To count all of OpInfo's samples by operation:
//!
//! ```text
//! python3 tests/golden/make_opinfo.py /tmp/opinfo
//! KILN_OPINFO=/tmp/opinfo cargo test -p kiln-tensor --test golden_ops -- --ignored --nocapture opinfo_samples
//! ```

#[path = "../common/mod.rs"]
mod common;
#[macro_use]
#[path = "../common/rows.rs"]
mod rows;
#[macro_use]
#[path = "../common/rows_spatial.rs"]
mod rows_spatial;
#[macro_use]
#[path = "../common/rows_composed.rs"]
mod rows_composed;
#[macro_use]
#[path = "../common/rows_composed_elementwise.rs"]
mod rows_composed_elementwise;
#[macro_use]
#[path = "../common/rows_composed_statistics.rs"]
mod rows_composed_statistics;
#[path = "../../../../tests/support/outcome.rs"]
mod outcome;

/// A table of rows, each of which is a test of its own, named as the operation.
macro_rules! table {
    ($($op:ident => |$x:pat_param, $a:ident| $call:expr;)*) => {
        pub const ROWS: &[crate::suite::Row] = &[$(crate::suite::Row {
            op: stringify!($op),
            call: |$x, $a| {
                let _ = $a;
                Ok(crate::suite::Outputs::outputs($call))
            },
        }),*];

        /// What PyTorch computes.
        #[allow(non_snake_case)]
        mod pytorch {
            $(#[test]
            fn $op() {
                crate::suite::run(&crate::tables(), crate::UNLIKE, stringify!($op));
            })*
        }
    };
}
mod autocast;
mod elementwise;
mod images;
mod indexing;
#[cfg(feature = "linalg")]
mod linalg;
mod losses;
mod reducing;
mod shaping;
mod structured;
mod suite;
mod unlike;

use std::collections::{BTreeMap, BTreeSet};

use common::golden::cases;
use outcome::Outcome;
use suite::{Row, Unlike};
use unlike::{ABSENT, UNLIKE, UNLIKE_LINALG, UNLIKE_SAMPLES};

#[cfg(feature = "linalg")]
const LINALG: [&[Row]; 1] = [linalg::ROWS];
#[cfg(not(feature = "linalg"))]
const LINALG: [&[Row]; 0] = [];

fn tables() -> Vec<Row> {
    [elementwise::ROWS, images::ROWS, indexing::ROWS, losses::ROWS, reducing::ROWS, shaping::ROWS]
        .into_iter()
        .chain([structured::scans::ROWS, structured::spatial::ROWS, structured::composed::ROWS])
        .chain([structured::statistics::ROWS, structured::elementwise::ROWS])
        .chain(LINALG)
        .flatten()
        .map(|row| Row { op: row.op, call: row.call })
        .collect()
}

#[test]
fn every_case_has_a_row() {
    let rows: BTreeSet<&str> = tables().iter().map(Row::name).collect();
    let absent: BTreeSet<&str> = ABSENT.iter().map(|&(op, _)| op).collect();
    let there: BTreeSet<&str> = suite::operations().collect();
    let missing: Vec<_> = there.iter().filter(|op| !rows.contains(*op) && !absent.contains(*op)).collect();
    let listed: Vec<_> = absent.iter().filter(|op| !there.contains(*op) || rows.contains(*op)).collect();
    assert!(missing.is_empty() && listed.is_empty(), "no row for {missing:?}; not absent: {listed:?}");
}

/// All of OpInfo's samples in the folder `KILN_OPINFO`, of the files whose names hold `KILN_OPINFO_DTYPE`.
#[test]
#[ignore = "reads a folder that tests/golden/make_opinfo.py writes"]
fn opinfo_samples() {
    let folder = std::env::var("KILN_OPINFO").expect("KILN_OPINFO names the folder");
    let only = std::env::var("KILN_OPINFO_DTYPE").unwrap_or_default();
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .filter(|path| path.ends_with(".safetensors") && path.contains(&only))
        .collect();
    files.sort();
    let rows = tables();
    let mut failed = Vec::new();
    for file in files {
        println!("{file}\n{:32} {:>6} {:>6} {:>6} {:>6} {:>6}", "", "agree", "wrong", "error", "lacks", "listed");
        let mut counts: BTreeMap<String, [usize; 5]> = BTreeMap::new();
        let mut reports = BTreeMap::new();
        for case in cases(&file) {
            let row = rows.iter().find(|row| row.name() == case.op);
            let outcome =
                row.map_or_else(|| Outcome::Lacks("the operation".into()), |row| suite::outcome(&case, row.call));
            let listed =
                UNLIKE.iter().chain(UNLIKE_SAMPLES).chain(UNLIKE_LINALG).any(|unlike| unlike.covers(&case, &outcome));
            let column = match &outcome {
                Outcome::Agrees => 0,
                _ if listed => 4,
                Outcome::Differs(_) => 1,
                Outcome::Refused(_) => 2,
                Outcome::Lacks(_) => 3,
            };
            counts.entry(case.op.clone()).or_default()[column] += 1;
            if (1..4).contains(&column) {
                let text = format!("{outcome} {}", case.args.values);
                let shapes: Vec<_> = case.inputs.iter().map(|x| format!("{}{:?}", x.dtype(), x.dims())).collect();
                reports.entry(case.op.clone()).or_insert_with(Vec::new).push(format!(
                    "{}: {text:.220} {}",
                    case.name,
                    shapes.join(" ")
                ));
            }
            if column == 1 {
                failed.push(case.name);
            }
        }
        let mut total = [0; 5];
        for (op, count) in &counts {
            for (total, n) in total.iter_mut().zip(count) {
                *total += n;
            }
            if count[1..].iter().any(|&n| n > 0) {
                println!("{op:32} {}", count.map(|n| format!("{n:6}")).join(" "));
                for report in reports.get(op).into_iter().flatten().take(4) {
                    println!("    {report}");
                }
            }
        }
        println!("{:32} {}", "all", total.map(|n| format!("{n:6}")).join(" "));
    }
    assert!(failed.is_empty(), "{} samples differ", failed.len());
}

/// The written list is of rows that there are, and says why.
#[test]
fn the_list_of_differences_is_true() {
    let rows: BTreeSet<&str> = tables().iter().map(Row::name).collect();
    for Unlike { op, why, .. } in UNLIKE.iter().chain(UNLIKE_SAMPLES).chain(UNLIKE_LINALG) {
        assert!((*op == "*" || rows.contains(op)) && !why.is_empty(), "{op}");
    }
}
