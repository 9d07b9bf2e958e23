//! Element-wise loops over operands in any layout: `map1` to `map3`, their in-place forms, and conversion. The operands
//! have the shape of the output, as the contracts of the primitives say.

use kiln_backend::{Layout, MAX_RANK};

use super::{
    iter::memory_order,
    par,
    reader::{Converted, Elements, Reader},
    tile::{TILE, Tile, steps},
    writer::Writer,
};
use crate::{
    memory::view::{Input, Target},
    numeric::{convert::Destination, stored::Stored},
};

/// The order in which the dimensions are visited; `None` for that of the indices.
fn order_of<'a>(out: &'a Layout, inputs: impl IntoIterator<Item = Option<&'a Layout>>) -> Option<[usize; MAX_RANK]> {
    debug_assert!(inputs.into_iter().flatten().all(|input| input.shape() == out.shape()));
    (!out.is_contiguous()).then(|| memory_order(out))
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
            grain: usize,
            $($x: &Input<$X>,)*
            out: &mut Target<O>,
            kernel: impl Fn($(&[$X::Compute],)* &mut [O::Compute]) + Sync,
        ) {
            let order = order_of(out.layout(), [$($x.layout()),*]);
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
pub(crate) fn cast<X: Stored, O: Destination>(grain: usize, x: &Input<X>, out: &mut Target<O>) {
    let order = order_of(out.layout(), [x.layout()]);
    let order = order.as_ref().map(|o| &o[..out.layout().rank()]);
    let reader = || -> Box<dyn Elements<O::Compute> + '_> {
        Box::new(Converted::<X, O> { reader: Reader::ordered(x, order), tile: [bytemuck::Zeroable::zeroed(); TILE] })
    };
    pull(grain, &reader, out, order);
}

/// Not generic in the type that is read, or it would be compiled for every pair of types.
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
    grain: usize,
    x: &Input<X>,
    out: &mut Target<O>,
    kernel: impl Fn(&[O::Compute], &[X::Compute], &mut [O::Compute]) + Sync,
) {
    let order = order_of(out.layout(), [x.layout()]);
    let order = order.as_ref().map(|o| &o[..out.layout().rank()]);
    let out = &*out;
    par::ranges(out.numel(), grain, |range| {
        let (mut x, mut writer, mut old) = (Reader::ordered(x, order), Writer::ordered(out, order), Tile::new());
        for range in steps(range, TILE) {
            let old = writer.read(range.clone(), &mut old);
            writer.put(range.clone(), |new| kernel(old, x.get(range), new));
        }
    });
}
