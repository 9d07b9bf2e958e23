//! The element-wise engine.
//!
//! Kernels take only contiguous slices of the type that they compute in. An operand that is one already is
//! handed over as it is; any other (strided, broadcast, half precision, a single number) is brought into a
//! tile on the stack first, and outputs likewise. So an operation is compiled once per computing type
//! whatever the layouts, always vectorised, and the detour costs a pass over the first-level cache.

use std::{marker::PhantomData, mem::MaybeUninit, ops::Range};

use kiln_backend::{Layout, MAX_RANK, Result};

use crate::{
    engine::{
        iter::{Walk, memory_order},
        par,
        simd::multiversion,
    },
    memory::view::{Input, Source, Target, same_shape},
    numeric::{
        convert::{Destination, convert},
        stored::Stored,
    },
};

/// Elements of a tile: four tiles of `f32` (operands and output) take 8 KiB of the first-level cache.
pub(crate) const TILE: usize = 512;

/// Runs at least this long are converted by vector code.
const LONG_RUN: usize = 16;

/// A stack buffer of up to `TILE` numbers, initialised as far as it was ever asked for.
struct Tile<C> {
    data: [MaybeUninit<C>; TILE],
    ready: usize,
}

impl<C: bytemuck::Pod> Tile<C> {
    #[inline(always)]
    fn new() -> Tile<C> {
        Tile { data: [const { MaybeUninit::uninit() }; TILE], ready: 0 }
    }

    #[inline]
    fn take(&mut self, n: usize) -> &mut [C] {
        if n > self.ready {
            self.data[self.ready..n].fill(MaybeUninit::new(C::zeroed()));
            self.ready = n;
        }
        // SAFETY: the first `ready` elements are initialised, and a slice of `MaybeUninit` has the layout of
        // the slice of what is inside.
        unsafe { &mut *(&raw mut self.data[..n] as *mut [C]) }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Path {
    /// Memory is what the kernel wants.
    Direct,
    /// The tile holds one number throughout.
    Constant,
    /// Through the tile.
    Staged,
}

impl Path {
    fn of<T: Stored>(walk: &Walk) -> Path {
        if T::DIRECT && walk.is_contiguous() {
            Path::Direct
        } else if walk.is_constant() {
            Path::Constant
        } else {
            Path::Staged
        }
    }
}

/// Hands out an operand's elements as contiguous slices.
pub(crate) struct Reader<'a, T: Stored> {
    ptr: *const T,
    walk: Walk,
    path: Path,
    tile: Tile<T::Compute>,
    memory: PhantomData<&'a [T]>,
}

impl<'a, T: Stored> Reader<'a, T> {
    /// For the operand with its dimensions in the order `order`.
    #[inline(always)]
    pub(crate) fn ordered(input: &'a Input<'_, T>, order: Option<&[usize]>) -> Reader<'a, T> {
        let (ptr, walk) = match input {
            Input::Tensor(source) => {
                let layout = source.layout();
                (source.ptr(), order.map_or_else(|| Walk::new(layout), |o| Walk::new(&layout.permute(o))))
            }
            Input::Constant(value) => (std::ptr::from_ref(value), Walk::of([(usize::MAX, 0)].into_iter())),
        };
        let path = Path::of::<T>(&walk);
        Reader { ptr, walk, path, tile: Tile::new(), memory: PhantomData }
    }

    /// For the elements of a source that `walk` visits.
    ///
    /// # Safety
    /// The walk visits elements of the source's layout only.
    #[inline(always)]
    pub(crate) unsafe fn over(source: &Source<'a, T>, walk: Walk) -> Reader<'a, T> {
        let path = Path::of::<T>(&walk);
        Reader { ptr: source.ptr(), walk, path, tile: Tile::new(), memory: PhantomData }
    }

    /// For the operand in row-major order.
    #[inline(always)]
    pub(crate) fn new(input: &'a Input<'_, T>) -> Reader<'a, T> {
        Reader::ordered(input, None)
    }

    /// The elements at positions `range` in place, if they are of the computing type and contiguous.
    #[inline]
    pub(crate) fn memory(&self, range: Range<usize>) -> Option<&'a [T::Compute]> {
        let run = self.walk.run_from(range.start)?;
        if !T::DIRECT || run < range.len() || range.end > self.walk.len() {
            return None;
        }
        // SAFETY: the positions are inside the walk, whose elements lie inside the buffer, and one after the
        // other; `DIRECT` says that `Compute` is `T`.
        unsafe {
            let first = self.ptr.offset(self.walk.offset(range.start)).cast::<T::Compute>();
            Some(std::slice::from_raw_parts(first, range.len()))
        }
    }

    /// The elements at positions `range`, any number of them, through `scratch` if need be.
    pub(crate) fn line<'s>(&'s mut self, range: Range<usize>, scratch: &'s mut Vec<T::Compute>) -> &'s [T::Compute] {
        if let Some(memory) = self.memory(range.clone()) {
            return memory;
        }
        if range.len() <= TILE {
            return self.get(range);
        }
        scratch.clear();
        for part in steps(range, TILE) {
            scratch.extend_from_slice(self.get(part));
        }
        scratch
    }

    /// Whether [`get`](Reader::get) takes more than `TILE` elements at a time.
    pub(crate) fn is_direct(&self) -> bool {
        self.path == Path::Direct
    }

    /// The elements at positions `range` (at most `TILE` of them unless it is direct).
    #[inline(never)] // it is long, and every operation would get a copy
    pub(crate) fn get(&mut self, range: Range<usize>) -> &[T::Compute] {
        let n = range.len();
        assert!(range.end <= self.walk.len(), "positions of the operand");
        match self.path {
            // SAFETY: the positions are inside the walk, whose elements lie inside the buffer; positions are
            // offsets here. `DIRECT` says that `Compute` is `T`.
            Path::Direct => unsafe { std::slice::from_raw_parts(self.ptr.add(range.start).cast::<T::Compute>(), n) },
            Path::Constant => {
                if n > self.tile.ready {
                    // SAFETY: the walk has positions, so its first element (a number or inside the buffer)
                    // can be read.
                    let value = unsafe { self.ptr.read() }.load();
                    self.tile.take(n).fill(value);
                }
                self.tile.take(n)
            }
            Path::Staged => {
                let tile = self.tile.take(n);
                let mut filled = 0;
                let ptr = self.ptr;
                self.walk.rows(range, |offset, stride, len| {
                    let to = &mut tile[filled..filled + len];
                    // SAFETY: the rows of the walk are elements of a checked layout.
                    unsafe { load_row(ptr.offset(offset), stride, to) };
                    filled += len;
                });
                tile
            }
        }
    }
}

/// Elements in the type that they are computed in, whatever they are stored as: what engines that would
/// be compiled too often for every stored type read from.
pub(crate) trait Elements<C> {
    /// The elements at positions `range`, if they can be had without a copy.
    fn memory(&self, range: Range<usize>) -> Option<&[C]>;
    /// The elements at positions `range`, at most `TILE`.
    fn get(&mut self, range: Range<usize>) -> &[C];
    /// Copies the elements at positions `range`, at most `TILE`.
    fn fill(&mut self, range: Range<usize>, out: &mut [C]);
}

impl<T: Stored> Elements<T::Compute> for Reader<'_, T> {
    fn memory(&self, range: Range<usize>) -> Option<&[T::Compute]> {
        Reader::memory(self, range)
    }

    fn get(&mut self, range: Range<usize>) -> &[T::Compute] {
        Reader::get(self, range)
    }

    fn fill(&mut self, range: Range<usize>, out: &mut [T::Compute]) {
        out.copy_from_slice(Reader::get(self, range));
    }
}

/// A reader whose elements are converted to another type.
pub(crate) struct Converted<'a, T: Stored, O: Destination> {
    pub(crate) reader: Reader<'a, T>,
    pub(crate) tile: [O::Compute; TILE],
}

impl<T: Stored, O: Destination> Elements<O::Compute> for Converted<'_, T, O> {
    fn memory(&self, _: Range<usize>) -> Option<&[O::Compute]> {
        None
    }

    fn get(&mut self, range: Range<usize>) -> &[O::Compute] {
        let n = range.len();
        convert::<T::Compute, O>(self.reader.get(range), &mut self.tile[..n]);
        &self.tile[..n]
    }

    fn fill(&mut self, range: Range<usize>, out: &mut [O::Compute]) {
        convert::<T::Compute, O>(self.reader.get(range), out);
    }
}

/// # Safety
/// The `to.len()` elements from `from` on, `stride` apart, can be read.
#[inline]
unsafe fn load_row<T: Stored>(from: *const T, stride: isize, to: &mut [T::Compute]) {
    match stride {
        // SAFETY: the caller's promise.
        1 => load(unsafe { std::slice::from_raw_parts(from, to.len()) }, to),
        // SAFETY: as above.
        0 => to.fill(unsafe { from.read() }.load()),
        _ => {
            for (i, to) in to.iter_mut().enumerate() {
                // SAFETY: as above.
                *to = unsafe { from.offset(i as isize * stride).read() }.load();
            }
        }
    }
}

/// Converts what is stored to what it is computed in.
#[inline]
pub(crate) fn load<T: Stored>(from: &[T], to: &mut [T::Compute]) {
    if from.len() < LONG_RUN {
        from.iter().zip(to).for_each(|(from, to)| *to = from.load());
    } else {
        load_long(from, to);
    }
}

/// Rounds what was computed to what is stored.
#[inline]
pub(crate) fn store<T: Stored>(from: &[T::Compute], to: &mut [T]) {
    if from.len() < LONG_RUN {
        from.iter().zip(to).for_each(|(from, to)| *to = T::store(*from));
    } else {
        store_long(from, to);
    }
}

multiversion! {
    fn load_long[T: Stored](from: &[T], to: &mut [T::Compute]), avx512 if [!T::DIRECT] {
        T::load_slice(from, to);
    }

    fn store_long[T: Stored](from: &[T::Compute], to: &mut [T]), avx512 if [!T::DIRECT] {
        T::store_slice(from, to);
    }
}

/// Takes an output's elements as contiguous slices.
pub(crate) struct Writer<'a, T: Stored> {
    ptr: *mut T,
    walk: Walk,
    direct: bool,
    tile: Tile<T::Compute>,
    memory: PhantomData<&'a mut [T]>,
}

impl<'a, T: Stored> Writer<'a, T> {
    /// For the output with its dimensions in the order `order`. Callers uphold what
    /// [`new`](Writer::new) asks for.
    #[inline(always)]
    fn ordered(target: &'a Target<'_, T>, order: Option<&[usize]>) -> Writer<'a, T> {
        let layout = target.layout();
        let walk = order.map_or_else(|| Walk::new(layout), |o| Walk::new(&layout.permute(o)));
        let direct = T::DIRECT && walk.is_contiguous();
        Writer { ptr: target.ptr(), walk, direct, tile: Tile::new(), memory: PhantomData }
    }

    /// For the output in row-major order.
    ///
    /// # Safety
    /// Sinks of one target that are alive together are used for disjoint positions only, and nothing else
    /// accesses the target while they are.
    #[inline(always)]
    pub(crate) unsafe fn new(target: &'a Target<'_, T>) -> Writer<'a, T> {
        Writer::ordered(target, None)
    }

    /// For the output with its dimensions in the order `order`.
    ///
    /// # Safety
    /// As for [`new`](Writer::new).
    #[inline(always)]
    pub(crate) unsafe fn in_order(target: &'a Target<'_, T>, order: &[usize]) -> Writer<'a, T> {
        Writer::ordered(target, Some(order))
    }

    /// Whether it takes more than `TILE` elements at a time.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Lets `fill` write the elements at positions `range` (at most `TILE` of them unless it is direct). What
    /// it finds in the slice means nothing.
    #[inline]
    pub(crate) fn put(&mut self, range: Range<usize>, fill: impl FnOnce(&mut [T::Compute])) {
        fill(self.slot(range.clone()));
        if !self.direct {
            self.commit(range);
        }
    }

    /// Where the elements at positions `range` are to be written.
    #[inline]
    fn slot(&mut self, range: Range<usize>) -> &mut [T::Compute] {
        let n = range.len();
        assert!(range.end <= self.walk.len(), "positions of the output");
        if self.direct {
            // SAFETY: the positions are inside the walk, whose elements lie inside the buffer; positions are
            // offsets here, `DIRECT` says that `Compute` is `T`, and no other writer has these positions.
            return unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start).cast::<T::Compute>(), n) };
        }
        self.tile.take(n)
    }

    /// Brings what was written to the tile to its place.
    #[inline(never)] // as for `Reader::get`
    fn commit(&mut self, range: Range<usize>) {
        let (mut done, ptr) = (0, self.ptr);
        let tile = self.tile.take(range.len());
        self.walk.rows(range, |offset, stride, len| {
            // SAFETY: the rows of the walk are elements of a checked layout (`slot` checked the positions), and
            // no other writer has these positions.
            unsafe { store_row(&tile[done..done + len], ptr.offset(offset), stride) };
            done += len;
        });
    }

    /// Like [`put`](Writer::put) for any number of elements, through `scratch` if need be.
    pub(crate) fn line(
        &mut self,
        range: Range<usize>,
        scratch: &mut Vec<T::Compute>,
        fill: impl FnOnce(&mut [T::Compute]),
    ) {
        if self.direct || range.len() <= TILE {
            return self.put(range, fill);
        }
        scratch.resize(range.len(), bytemuck::Zeroable::zeroed());
        fill(scratch);
        for (part, values) in steps(range, TILE).zip(scratch.chunks(TILE)) {
            self.put(part, |out| out.copy_from_slice(values));
        }
    }

    /// The present values of the elements at positions `range` (at most `TILE` of them), copied to `old`.
    #[inline]
    fn read<'t>(&self, range: Range<usize>, old: &'t mut Tile<T::Compute>) -> &'t [T::Compute] {
        assert!(range.end <= self.walk.len(), "positions of the output");
        let old = old.take(range.len());
        let mut done = 0;
        self.walk.rows(range, |offset, stride, len| {
            // SAFETY: the rows of the walk are elements of a checked layout, and no other writer writes to them.
            unsafe { load_row(self.ptr.offset(offset).cast_const(), stride, &mut old[done..done + len]) };
            done += len;
        });
        old
    }
}

/// # Safety
/// The `from.len()` elements from `to` on, `stride` apart, can be written, and nobody else accesses them.
#[inline]
unsafe fn store_row<T: Stored>(from: &[T::Compute], to: *mut T, stride: isize) {
    if stride == 1 {
        // SAFETY: the caller's promise.
        return store(from, unsafe { std::slice::from_raw_parts_mut(to, from.len()) });
    }
    for (i, from) in from.iter().enumerate() {
        // SAFETY: as above.
        unsafe { to.offset(i as isize * stride).write(T::store(*from)) };
    }
}

/// Splits a range into steps of at most `step`.
pub(crate) fn steps(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(step).map(move |start| start..end.min(start + step))
}

/// Checks the operands' shapes against the output's, and says in which order to visit the dimensions.
fn plan<'a>(
    op: &'static str,
    out: &'a Layout,
    inputs: impl Iterator<Item = Option<&'a Layout>>,
) -> Result<Option<[usize; MAX_RANK]>> {
    for input in inputs.flatten() {
        same_shape(op, &[input, out])?;
    }
    Ok((!out.is_contiguous()).then(|| memory_order(out)))
}

impl<T: Stored> Input<'_, T> {
    pub(crate) fn layout(&self) -> Option<&Layout> {
        match self {
            Input::Tensor(source) => Some(source.layout()),
            Input::Constant(_) => None,
        }
    }
}

macro_rules! map {
    ($(#[$meta:meta])* $name:ident, $($X:ident $x:ident),*) => {
        $(#[$meta])*
        pub(crate) fn $name<$($X: Stored,)* O: Stored>(
            op: &'static str,
            grain: usize,
            $($x: &Input<$X>,)*
            out: &mut Target<O>,
            kernel: impl Fn($(&[$X::Compute],)* &mut [O::Compute]) + Sync,
        ) -> Result<()> {
            let order = plan(op, out.layout(), [$($x.layout()),*].into_iter())?;
            let order = order.as_ref().map(|o| &o[..out.layout().rank()]);
            let out = &*out;
            par::ranges(out.numel(), grain, |range| {
                $(let mut $x = Reader::ordered($x, order);)*
                let mut writer = Writer::ordered(out, order);
                let direct = writer.is_direct() $(&& $x.is_direct())*;
                let step = if direct { range.len() } else { TILE };
                for range in steps(range, step) {
                    writer.put(range.clone(), |out| kernel($($x.get(range.clone()),)* out));
                }
            });
            Ok(())
        }
    };
}

map!(
    /// `out = kernel(x)`.
    map1, X x
);
map!(
    /// `out = kernel(x, y)`.
    map2, X x, Y y
);
map!(
    /// `out = kernel(x, y, z)`.
    map3, X x, Y y, Z z
);

/// `out = O(x)`.
pub(crate) fn cast<X: Stored, O: Destination>(
    op: &'static str,
    grain: usize,
    x: &Input<X>,
    out: &mut Target<O>,
) -> Result<()> {
    let order = plan(op, out.layout(), [x.layout()].into_iter())?;
    let order = order.as_ref().map(|o| &o[..out.layout().rank()]);
    let reader = || -> Box<dyn Elements<O::Compute> + '_> {
        Box::new(Converted::<X, O> { reader: Reader::ordered(x, order), tile: [bytemuck::Zeroable::zeroed(); TILE] })
    };
    pull(grain, &reader, out, order);
    Ok(())
}

/// Not generic in what is read: it would be compiled for every pair of types.
fn pull<'a, O: Stored>(
    grain: usize,
    reader: &(dyn Fn() -> Box<dyn Elements<O::Compute> + 'a> + Sync),
    out: &Target<O>,
    order: Option<&[usize]>,
) {
    par::ranges(out.numel(), grain, |range| {
        let (mut x, mut writer) = (reader(), Writer::ordered(out, order));
        for range in steps(range, TILE) {
            writer.put(range.clone(), |out| x.fill(range, out));
        }
    });
}

/// `out = kernel(out, x)`.
pub(crate) fn update1<X: Stored, O: Stored>(
    op: &'static str,
    grain: usize,
    x: &Input<X>,
    out: &mut Target<O>,
    kernel: impl Fn(&[O::Compute], &[X::Compute], &mut [O::Compute]) + Sync,
) -> Result<()> {
    let order = plan(op, out.layout(), [x.layout()].into_iter())?;
    let order = order.as_ref().map(|o| &o[..out.layout().rank()]);
    let out = &*out;
    par::ranges(out.numel(), grain, |range| {
        let (mut x, mut writer, mut old) = (Reader::ordered(x, order), Writer::ordered(out, order), Tile::new());
        for range in steps(range, TILE) {
            let old = writer.read(range.clone(), &mut old);
            writer.put(range.clone(), |new| kernel(old, x.get(range), new));
        }
    });
    Ok(())
}
