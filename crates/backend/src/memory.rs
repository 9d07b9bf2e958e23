//! Statistics of a device's memory.

use std::fmt;

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use by tensors now.
    pub allocated: usize,
    /// The largest `allocated` since the last reset.
    pub peak_allocated: usize,
    /// Obtained from the system, including free cached blocks.
    pub reserved: usize,
    /// How many times memory was requested from the system.
    pub system_allocations: u64,
}

impl fmt::Display for MemoryStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MemoryStats { allocated, peak_allocated, reserved, system_allocations } = *self;
        let [allocated, peak, reserved] = [allocated, peak_allocated, reserved].map(Bytes);
        writeln!(f, "in use by tensors   {allocated}")?;
        writeln!(f, "peak so far         {peak}")?;
        writeln!(f, "held from system    {reserved}")?;
        write!(f, "system allocations  {system_allocations}")
    }
}

/// A number of bytes that prints in readable units, e.g. `1.50 GiB`.
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
        let text = "in use by tensors   0 bytes\npeak so far         1.50 GiB\nheld from system    20.00 MiB\n\
                    system allocations  7";
        assert_eq!(stats.to_string(), text);
        assert_eq!(Bytes(1536).to_string(), "1.50 KiB");
    }
}
