//! How much memory a device's tensors use.

use std::fmt;

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use by tensors now.
    pub allocated: usize,
    /// The most that was in use at one time since the last reset.
    pub peak_allocated: usize,
    /// Held from the system, free cached blocks included.
    pub reserved: usize,
    /// How often memory was asked of the system.
    pub system_allocations: u64,
}

impl fmt::Display for MemoryStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MemoryStats { allocated, peak_allocated, reserved, system_allocations } = *self;
        let [allocated, peak, reserved] = [allocated, peak_allocated, reserved].map(Bytes);
        writeln!(f, "in use by tensors   {allocated}")?;
        writeln!(f, "at most so far      {peak}")?;
        writeln!(f, "held from system    {reserved}")?;
        write!(f, "asked of system     {system_allocations} times")
    }
}

/// A number of bytes as people read it, e.g. `1.50 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1usize << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) => write!(f, "{:.2} {name}", self.0 as f64 / *unit as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_can_read_it() {
        let stats = MemoryStats { allocated: 0, peak_allocated: 3 << 29, reserved: 20 << 20, system_allocations: 7 };
        let text = "in use by tensors   0 bytes\nat most so far      1.50 GiB\nheld from system    20.00 MiB\n\
                    asked of system     7 times";
        assert_eq!(stats.to_string(), text);
        assert_eq!(Bytes(1536).to_string(), "1.50 KiB");
    }
}
