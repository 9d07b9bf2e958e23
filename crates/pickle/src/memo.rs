//! The machine's memo: values that the pickle numbers in order to refer to them again.

use std::collections::HashMap;

use crate::{
    error::{Error, Result},
    meter::Meter,
    value::Id,
};

/// Bytes of an entry of the sparse part, including the table.
const SPARSE_ENTRY: usize = 64;
/// How large a gap between indices the vector may have.
const GAP: usize = 16;

/// Values by index. Python counts up from 0 or 1, so that nearly all of them are in a vector.
#[derive(Default)]
pub(crate) struct Memo {
    dense: Vec<Option<Id>>,
    sparse: HashMap<u64, Id>,
    len: u64,
}

impl Memo {
    /// The number of values.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn insert(&mut self, key: u64, id: Id, meter: &mut Meter) -> Result<()> {
        let near = usize::try_from(key).ok().filter(|&key| key <= self.dense.len() + GAP);
        if let Some(key) = near {
            while self.dense.len() <= key {
                let len = self.dense.len() as u64;
                let value = self.sparse.get(&len).copied();
                meter.push(&mut self.dense, value)?;
            }
            let slot = &mut self.dense[key];
            self.len += u64::from(slot.is_none());
            *slot = Some(id);
            return Ok(());
        }
        if !self.sparse.contains_key(&key) {
            meter.take(SPARSE_ENTRY)?;
            self.sparse.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes: SPARSE_ENTRY })?;
            self.len += 1;
        }
        self.sparse.insert(key, id);
        Ok(())
    }

    pub fn get(&self, key: u64) -> Option<Id> {
        let dense = usize::try_from(key).ok().and_then(|key| self.dense.get(key));
        dense.copied().unwrap_or_else(|| self.sparse.get(&key).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_of_numbers_is_a_map() {
        let (mut memo, mut meter) = (Memo::default(), Meter::new(1 << 20));
        let mut want = HashMap::new();
        for (i, key) in [1, 0, 5, 40, 41, 7, 30, 22, 39, 40, u64::MAX, 0].into_iter().enumerate() {
            memo.insert(key, Id(i as u32), &mut meter).unwrap();
            want.insert(key, Id(i as u32));
            assert_eq!(memo.len(), want.len() as u64, "after {key}");
            for key in (0..60).chain([u64::MAX]) {
                assert_eq!(memo.get(key), want.get(&key).copied(), "{key}");
            }
        }
    }
}
