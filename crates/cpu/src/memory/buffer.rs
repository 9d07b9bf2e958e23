//! The CPU's [`Buffer`]: a block of the caching allocator, a vector taken over from the host, or memory that a device pinned.

use std::{any::Any, fmt};

use kiln_backend::{Buffer, DType, Error, HostMemory, HostVec, Result};

use crate::memory::allocator::{self, Block};

/// Memory of one tensor storage. All of it is always initialized.
pub(crate) struct CpuBuffer {
    dtype: DType,
    len: usize,
    memory: Memory,
}

enum Memory {
    Pooled(Block),
    /// Never `HostVec::Bool`: kernels write truth values as bytes, so they are stored as bytes.
    Adopted(HostVec),
    /// Has at least the bytes of the elements, aligned for them.
    Pinned(Box<dyn HostMemory>),
}

impl CpuBuffer {
    /// `len` elements with unspecified contents (NaN, in builds with debug assertions).
    pub(crate) fn new(dtype: DType, len: usize) -> Result<CpuBuffer> {
        // If the product overflows, it saturates to more than there is, and the allocator returns the error.
        let mut block = Block::new(len.saturating_mul(dtype.size()))?;
        block.poison();
        Ok(CpuBuffer { dtype, len, memory: Memory::Pooled(block) })
    }

    /// Takes over a vector without copying it.
    pub(crate) fn adopt(data: HostVec) -> CpuBuffer {
        let (dtype, len) = (data.dtype(), data.len());
        let data = match data {
            HostVec::Bool(v) => HostVec::U8(bytemuck::allocation::cast_vec(v)),
            other => other,
        };
        allocator::note_adopted(len * dtype.size());
        CpuBuffer { dtype, len, memory: Memory::Adopted(data) }
    }

    /// Wraps memory that a device pinned. For `bool` its bytes must be 0 and 1.
    pub(crate) fn wrap(dtype: DType, len: usize, memory: Box<dyn HostMemory>) -> Result<CpuBuffer> {
        let bytes = memory.bytes();
        let is_aligned = bytes.as_ptr().align_offset(dtype.size()) == 0;
        let holds = len.checked_mul(dtype.size()).is_some_and(|needed| needed <= bytes.len());
        let truths = dtype != DType::Bool || holds && bytes[..len].iter().all(|&byte| byte <= 1);
        if !is_aligned || !holds || !truths {
            return Err(Error::argument("pin_memory", format!("{memory:?} does not hold {len} elements of {dtype}")));
        }
        Ok(CpuBuffer { dtype, len, memory: Memory::Pinned(memory) })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.memory {
            // SAFETY: the block has at least this many bytes (it was allocated for them), which are
            // initialized and borrowed with `self`.
            Memory::Pooled(block) => unsafe {
                std::slice::from_raw_parts(block.ptr().as_ptr(), self.len * self.dtype.size())
            },
            Memory::Adopted(data) => data.bytes(),
            Memory::Pinned(memory) => &memory.bytes()[..self.len * self.dtype.size()],
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = self.len * self.dtype.size();
        match &mut self.memory {
            // SAFETY: as in `bytes`, and borrowed exclusively with `self`.
            Memory::Pooled(block) => unsafe { std::slice::from_raw_parts_mut(block.ptr().as_ptr(), bytes) },
            Memory::Pinned(memory) => &mut memory.bytes_mut()[..bytes],
            // Only `HostVec::Bool` has no bytes, and `adopt` stores none.
            Memory::Adopted(data) => data.bytes_mut().unwrap_or_default(),
        }
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        let bytes = self.len * self.dtype.size();
        match &self.memory {
            Memory::Adopted(_) => allocator::note_released(bytes),
            Memory::Pooled(block) => {
                let fine = block.guard_is_intact(bytes) || std::thread::panicking();
                debug_assert!(fine, "a write past the end of a tensor of {} elements of {}", self.len, self.dtype);
            }
            Memory::Pinned(_) => {}
        }
    }
}

impl Buffer for CpuBuffer {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn len(&self) -> usize {
        self.len
    }

    fn host_bytes(&self) -> Option<&[u8]> {
        Some(self.bytes())
    }

    fn is_pinned(&self) -> bool {
        matches!(self.memory, Memory::Pinned(_))
    }

    fn host_bytes_mut(&mut self) -> Option<&mut [u8]> {
        Some(self.bytes_mut())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl fmt::Debug for CpuBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuBuffer({} x {})", self.len, self.dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adopts_every_dtype_without_a_copy() {
        let values = vec![1.5f32, -2.0];
        let address = values.as_ptr().cast::<u8>();
        let mut buffer = CpuBuffer::adopt(HostVec::F32(values));
        assert_eq!(buffer.bytes().as_ptr(), address);
        buffer.bytes_mut()[..4].copy_from_slice(&7f32.to_ne_bytes());
        assert_eq!(buffer.bytes()[..4], 7f32.to_ne_bytes());

        let flags = CpuBuffer::adopt(HostVec::Bool(vec![true, false, true]));
        assert_eq!((flags.dtype(), flags.len(), flags.bytes()), (DType::Bool, 3, &[1u8, 0, 1][..]));
        for dtype in DType::ALL {
            let mut buffer = CpuBuffer::new(dtype, 3).unwrap();
            assert_eq!(buffer.bytes_mut().len(), 3 * dtype.size());
            assert!(CpuBuffer::new(dtype, 0).unwrap().bytes().is_empty());
        }
        assert!(CpuBuffer::new(DType::F64, usize::MAX).is_err());
    }

    #[repr(align(64))]
    #[derive(Debug)]
    struct Foreign([u8; 64], usize);

    impl HostMemory for Foreign {
        fn bytes(&self) -> &[u8] {
            &self.0[self.1..]
        }

        fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.0[self.1..]
        }
    }

    #[test]
    fn wraps_memory_that_holds_the_elements() {
        let memory = |value: u8, start| Box::new(Foreign([value; 64], start));
        let mut buffer = CpuBuffer::wrap(DType::F32, 5, memory(0, 0)).unwrap();
        buffer.bytes_mut()[16..].copy_from_slice(&7f32.to_ne_bytes());
        assert_eq!((buffer.bytes().len(), &buffer.bytes()[16..]), (20, &7f32.to_ne_bytes()[..]));
        assert!(buffer.is_pinned() && !CpuBuffer::new(DType::F32, 5).unwrap().is_pinned());
        assert!(CpuBuffer::wrap(DType::F32, 17, memory(0, 0)).is_err()); // too short
        assert!(CpuBuffer::wrap(DType::F32, 5, memory(0, 2)).is_err()); // unaligned
        assert!(CpuBuffer::wrap(DType::U8, 5, memory(0, 2)).is_ok());
        assert!(CpuBuffer::wrap(DType::Bool, 64, memory(1, 0)).is_ok());
        assert!(CpuBuffer::wrap(DType::Bool, 64, memory(2, 0)).is_err()); // no truth values
        assert!(CpuBuffer::wrap(DType::F64, usize::MAX, memory(0, 0)).is_err());
    }
}
