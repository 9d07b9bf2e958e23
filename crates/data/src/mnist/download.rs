//! Downloads the files of a split.

use std::path::{Path, PathBuf};

use kiln_fetch::Download;
use kiln_tensor::Result;

use super::{
    find::names,
    kind::{Facts, PIXELS},
};

/// Allowance for headers, and for a compressed file that is no smaller than its contents.
const SLACK: u64 = 1 << 16;

/// Downloads the images' and labels' files of a split into `folder`; returns their paths.
pub(super) fn split(kind: &Facts, folder: &Path, train: bool, mirrors: &[String]) -> Result<[PathBuf; 2]> {
    let (which, names) = (usize::from(!train), names(train));
    let count = kind.counts[which] as u64;
    let fetch = |file: usize, bytes: u64| {
        let name = format!("{}.gz", names[file]);
        let urls = mirrors.iter().map(|mirror| format!("{}/{name}", mirror.trim_end_matches('/'))).collect();
        let (target, sha256) = (folder.join(name), kind.sha256[which][file]);
        Download { target, urls, sha256, packed: true, most: bytes + SLACK }.run()
    };
    Ok([fetch(0, count * PIXELS as u64)?, fetch(1, count)?])
}
