//! The checksum that Kiln puts into the metadata of its files. The safetensors format has none: without it a
//! flipped bit among the values would go unnoticed.

use std::collections::HashMap;

/// The metadata key that holds the checksum, as 8 hexadecimal digits.
pub(crate) const KEY: &str = "kiln.crc32";

/// A checksum over named pieces that does not depend on their order, so that another program may reorder the
/// tensors and metadata of a file.
#[derive(Default)]
pub(crate) struct Checksum(u32);

impl Checksum {
    /// The checksum of the metadata, excluding the entry of the checksum itself.
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

    /// The checksum stated in the metadata, if Kiln wrote the file.
    pub fn stated(metadata: &HashMap<String, String>) -> Option<&str> {
        metadata.get(KEY).map(String::as_str)
    }
}
