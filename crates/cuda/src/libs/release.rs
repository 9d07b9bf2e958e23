//! Versions of NVIDIA's software as text.

/// Formats a version that NVIDIA packs into a number: 13040 is 13.4 with a unit of 1000, 130401 is 13.4.1 with one of
/// 10,000.
pub(crate) fn release(version: u32, unit: u32) -> String {
    let (major, rest) = (version / unit, version % unit);
    match unit {
        1000 => format!("{major}.{}", rest / 10),
        _ => format!("{major}.{}.{}", rest / 100, rest % 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_words() {
        assert_eq!([release(13040, 1000), release(12080, 1000)], ["13.4", "12.8"]);
        assert_eq!([release(130_401, 10_000), release(92_600, 10_000)], ["13.4.1", "9.26.0"]);
    }
}
