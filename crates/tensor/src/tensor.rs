//! The [`Tensor`] handle: its parts, and its properties such as shape, dtype and device. Operations are in
//! [`ops`](crate::ops).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use kiln_backend::{Backend, DType, Error, Layout, Result, Shape, ViewMut};
use kiln_derive::located;
use parking_lot::Mutex;

use crate::{
    autograd::{Meta, grad_enabled},
    captured::refuse_elsewhere,
    device::Device,
    storage::{Reading, Storage},
};

/// A multi-dimensional array of one dtype on one device, with its place in the autograd graph.
///
/// Cloning makes another handle to the same tensor (as assignment does in Python); [`copy`](Tensor::copy) makes a new
/// tensor. Views share memory with their base, and a change through one handle or view shows in all others. A tensor
/// may be used from any thread.
///
/// Dimensions are numbered from 0, or backwards from -1.
#[derive(Clone)]
pub struct Tensor(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub storage: Arc<Storage>,
    pub layout: Layout,
    /// The tensor that this one is a view of (never itself a view), for in-place changes through the view.
    pub view_of: Option<Base>,
    /// Whether `meta` holds a history or `requires_grad`: lets the hot path skip the lock.
    pub tracked: AtomicBool,
    pub meta: Mutex<Meta>,
}

#[derive(Clone)]
pub(crate) struct Base {
    pub tensor: Tensor,
    /// Made while recording was off: its changes cannot be traced to the base.
    pub untraced: bool,
}

#[located]
impl Tensor {
    pub(crate) fn from_storage(storage: Arc<Storage>, layout: Layout) -> Tensor {
        Self::assemble(storage, layout, None)
    }

    fn assemble(storage: Arc<Storage>, layout: Layout, view_of: Option<Base>) -> Tensor {
        let meta = Meta { version: storage.version(), ..Meta::default() };
        let (tracked, meta) = (AtomicBool::new(false), Mutex::new(meta));
        Tensor(Arc::new(Inner { storage, layout, view_of, tracked, meta }))
    }

    /// A new contiguous tensor whose memory one backend call fills.
    pub(crate) fn compute(
        device: Device,
        dtype: DType,
        shape: Shape,
        write: impl FnOnce(&'static dyn Backend, ViewMut<'_>) -> Result<()>,
    ) -> Result<Tensor> {
        Self::compute_in(device, dtype, Layout::contiguous(shape), write)
    }

    /// [`compute`](Tensor::compute) with another memory layout, without gaps.
    pub(crate) fn compute_in(
        device: Device,
        dtype: DType,
        layout: Layout,
        write: impl FnOnce(&'static dyn Backend, ViewMut<'_>) -> Result<()>,
    ) -> Result<Tensor> {
        refuse_elsewhere(device, "a tensor")?;
        let backend = device.backend()?;
        let mut buffer = backend.alloc(dtype, layout.numel())?;
        write(backend, ViewMut { buffer: &mut *buffer, layout: &layout })?;
        Ok(Self::from_storage(Storage::new(device, backend, buffer), layout))
    }

    /// The same memory through another layout, not recorded on the tape; `ops::view` records it.
    pub(crate) fn alias(&self, layout: Layout) -> Tensor {
        let base = match &self.0.view_of {
            Some(base) => Base { tensor: base.tensor.clone(), untraced: base.untraced || !grad_enabled() },
            None => Base { tensor: self.clone(), untraced: !grad_enabled() },
        };
        Self::assemble(self.0.storage.clone(), layout, Some(base))
    }

    /// A tensor that shares this one's memory but not its history: no gradient flows through it. A change of either
    /// shows in the other.
    #[must_use]
    pub fn detach(&self) -> Tensor {
        Self::from_storage(self.0.storage.clone(), self.0.layout).noted("identity", &[self], || [])
    }

    pub(crate) fn read(&self) -> Reading<'_> {
        Reading { guard: self.0.storage.read(), layout: &self.0.layout }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// The extents of its dimensions.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        self.0.layout.shape()
    }

    /// The extents as a slice.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        self.0.layout.dims()
    }

    /// The extent of one dimension.
    ///
    /// # Errors
    /// If the tensor has no such dimension.
    pub fn size(&self, dim: impl kiln_backend::Dim) -> Result<usize> {
        let dim = dim.resolve("size", self.rank())?;
        self.dims().get(dim).copied().ok_or_else(|| Error::dim("size", dim as i64, 0))
    }

    /// Distance in elements between neighbors along each dimension.
    #[must_use]
    pub fn strides(&self) -> &[isize] {
        self.0.layout.strides()
    }

    /// Number of dimensions, PyTorch's `dim()`.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.0.layout.rank()
    }

    /// Number of elements.
    #[must_use]
    pub fn numel(&self) -> usize {
        self.0.layout.numel()
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.0.storage.dtype
    }

    /// The device it is on.
    #[must_use]
    pub fn device(&self) -> Device {
        self.0.storage.device
    }

    /// Whether its elements are in row-major order without gaps.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.0.layout.is_contiguous()
    }

    /// Whether both are handles to the same tensor.
    #[must_use]
    pub fn is_same(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A number that all handles to this tensor share, and that no other tensor has as long as one of them lives.
    #[must_use]
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// Whether both share the same memory.
    #[must_use]
    pub fn shares_memory(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.0.storage, &other.0.storage)
    }

    /// How many times its memory was changed in place.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.0.storage.version()
    }

    pub(crate) fn is_tracked(&self) -> bool {
        self.0.tracked.load(Ordering::Acquire)
    }

    /// Checks that this is a scalar.
    ///
    /// # Errors
    /// If it has dimensions.
    pub fn dims0(&self) -> Result<()> {
        self.exact_dims("dims0").map(|[]| ())
    }

    /// The extent of a vector.
    ///
    /// # Errors
    /// If it is not 1-D.
    pub fn dims1(&self) -> Result<usize> {
        self.exact_dims("dims1").map(|[a]| a)
    }

    /// The extents of a matrix.
    ///
    /// # Errors
    /// If it is not 2-D.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        self.exact_dims("dims2").map(|[a, b]| (a, b))
    }

    /// The extents of a 3-D tensor.
    ///
    /// # Errors
    /// If it is not 3-D.
    pub fn dims3(&self) -> Result<(usize, usize, usize)> {
        self.exact_dims("dims3").map(|[a, b, c]| (a, b, c))
    }

    /// The extents of a 4-D tensor: `let (n, c, h, w) = x.dims4()?;`.
    ///
    /// # Errors
    /// If it is not 4-D.
    pub fn dims4(&self) -> Result<(usize, usize, usize, usize)> {
        self.exact_dims("dims4").map(|[a, b, c, d]| (a, b, c, d))
    }

    fn exact_dims<const N: usize>(&self, op: &'static str) -> Result<[usize; N]> {
        self.dims().try_into().map_err(|_| Error::shape(op, format!("exactly {N} dimensions"), self.shape()))
    }
}
