//! What a collective computes: sums in the order of the ranks, so that all ranks have the same bits.
use half::{bf16, f16};

use super::call::{Call, Kind, SIZES};
use super::work::Collective;

/// An element, with the arithmetic of the library.
trait Element: Copy {
    fn sum(self, other: Self) -> Self;
    fn product(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    /// Before the sum of a mean of `ranks` values.
    fn scaled(self, ranks: usize) -> Self;
    /// After it.
    fn divided(self, ranks: usize) -> Self;
}

macro_rules! floats {
    ($($type:ty: $wide:ty, $to:expr, $from:expr;)*) => {$(
        impl Element for $type {
            fn sum(self, other: Self) -> Self { $from($to(self) + $to(other)) }
            fn product(self, other: Self) -> Self { $from($to(self) * $to(other)) }
            fn max(self, other: Self) -> Self { $from(<$wide>::max($to(self), $to(other))) }
            fn min(self, other: Self) -> Self { $from(<$wide>::min($to(self), $to(other))) }
            fn scaled(self, ranks: usize) -> Self { $from($to(self) * (1.0 / ranks as $wide)) }
            fn divided(self, _: usize) -> Self { self }
        }
    )*};
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Element for $type {
            fn sum(self, other: Self) -> Self { self.wrapping_add(other) }
            fn product(self, other: Self) -> Self { self.wrapping_mul(other) }
            fn max(self, other: Self) -> Self { Ord::max(self, other) }
            fn min(self, other: Self) -> Self { Ord::min(self, other) }
            fn scaled(self, _: usize) -> Self { self }
            fn divided(self, ranks: usize) -> Self { self / ranks as $type }
        }
    )*};
}

floats! {
    f32: f32, std::convert::identity, std::convert::identity;
    f64: f64, std::convert::identity, std::convert::identity;
    f16: f32, f16::to_f32, f16::from_f32;
    bf16: f32, bf16::to_f32, bf16::from_f32;
}
integers! { i8 u8 i32 u32 i64 u64 }

fn combine<T: Element>(parts: &[&[u8]], op: usize) -> Vec<u8> {
    let size = size_of::<T>();
    let ranks = parts.len();
    // SAFETY: any bytes are a value of these types, and the chunk has as many.
    let read = |part: &[u8], at: usize| unsafe { part.as_ptr().add(at).cast::<T>().read_unaligned() };
    let mut out = vec![0u8; parts[0].len()];
    for at in (0..out.len()).step_by(size) {
        let values = parts.iter().map(|part| read(part, at));
        let value = match op {
            1 => values.reduce(T::product),
            2 => values.reduce(T::max),
            3 => values.reduce(T::min),
            4 => values.map(|value| value.scaled(ranks)).reduce(T::sum).map(|sum| sum.divided(ranks)),
            _ => values.reduce(T::sum),
        };
        if let Some(value) = value {
            // SAFETY: the chunk has as many bytes.
            unsafe { out.as_mut_ptr().add(at).cast::<T>().write_unaligned(value) };
        }
    }
    out
}

/// The combination of the ranks' values; `None` for types that the simulator has no arithmetic for.
fn reduce(call: &Call, parts: &[&[u8]]) -> Option<Vec<u8>> {
    Some(match call.data {
        0 => combine::<i8>(parts, call.op),
        1 => combine::<u8>(parts, call.op),
        2 => combine::<i32>(parts, call.op),
        3 => combine::<u32>(parts, call.op),
        4 => combine::<i64>(parts, call.op),
        5 => combine::<u64>(parts, call.op),
        6 => combine::<f16>(parts, call.op),
        7 => combine::<f32>(parts, call.op),
        8 => combine::<f64>(parts, call.op),
        9 => combine::<bf16>(parts, call.op),
        _ => return None,
    })
}

/// What this rank receives, from the values of all ranks.
pub fn result(collective: &Collective, values: &[Vec<u8>]) -> Option<Vec<u8>> {
    let (call, rank) = (&collective.call, collective.link.rank);
    let all = || values.iter().map(Vec::as_slice);
    match call.kind {
        Kind::Broadcast => values.get(call.root).cloned(),
        Kind::AllGather => Some(values.concat()),
        Kind::AllReduce => reduce(call, &all().collect::<Vec<_>>()),
        Kind::ReduceScatter => {
            let bytes = call.count * SIZES[call.data];
            let part = rank * bytes..(rank + 1) * bytes;
            reduce(call, &all().map(|values| &values[part.clone()]).collect::<Vec<_>>())
        }
    }
}
