//! The checksum that Kiln puts into the metadata of its files. The safetensors format has none: without it
//! a flipped bit among the values would go unnoticed.

use std::collections::HashMap;

/// The metadata key that holds the checksum, as 8 hexadecimal digits.
pub(crate) const KEY: &str = "kiln.crc32";

/// A sum over named pieces that does not depend on their order, so that another program may write the same
/// tensors and metadata in an order of its own.
#[derive(Default)]
pub(crate) struct Checksum(u32);

impl Checksum {
    /// The sum over the metadata, except for the checksum in it.
    pub fn of_metadata<'a>(metadata: impl IntoIterator<Item = (&'a String, &'a String)>) -> Checksum {
        let mut sum = Checksum::default();
        for (key, value) in metadata {
            if key != KEY {
                sum.add(key, value.as_bytes());
            }
        }
        sum
    }

    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        let mut crc = crc32fast::Hasher::new();
        crc.update(name.as_bytes());
        crc.update(&[0]);
        crc.update(bytes);
        self.0 = self.0.wrapping_add(crc.finalize());
    }

    pub fn text(&self) -> String {
        format!("{:08x}", self.0)
    }

    /// The checksum that the metadata states, if Kiln wrote it.
    pub fn stated(metadata: &HashMap<String, String>) -> Option<&str> {
        metadata.get(KEY).map(String::as_str)
    }
}
