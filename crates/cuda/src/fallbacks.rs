//! Fallbacks taken by this process, for the report: a product without a fused epilogue, a convolution that is not
//! fused, a call that was repeated. Results are the same; only the time differs.

use parking_lot::Mutex;

/// Maximum number of distinct notes.
const MAX_NOTES: usize = 64;

/// A fallback and how often it was taken.
static NOTES: Mutex<Vec<(String, u64)>> = Mutex::new(Vec::new());

/// Counts a fallback. The text names the device, what was done instead of what, and why.
pub(crate) fn note(text: String) {
    let mut notes = NOTES.lock();
    if let Some((_, count)) = notes.iter_mut().find(|(known, _)| *known == text) {
        *count += 1;
    } else if notes.len() < MAX_NOTES {
        notes.push((text, 1));
    }
}

/// All notes, in the order of their first occurrence.
pub(crate) fn notes() -> Vec<(String, u64)> {
    NOTES.lock().clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_counted_and_the_number_is_bounded() {
        for i in 0..3 * MAX_NOTES {
            note(format!("{}", i % (2 * MAX_NOTES)));
        }
        let notes = notes();
        assert_eq!(notes.len(), MAX_NOTES);
        assert_eq!((notes[0].clone(), notes[MAX_NOTES - 1].clone()), (("0".into(), 2), ("63".into(), 2)));
    }
}
