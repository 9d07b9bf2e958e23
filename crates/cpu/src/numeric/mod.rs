//! Numbers: how element types are stored and computed in (`stored`), converted (`number`, `convert`) and dispatched by
//! dtype (`dispatch`), functions of reals and integers (`real`, `int`, `math`, `special`), and random bits and normal deviates
//! (`philox`, `normal`).

pub(crate) mod convert;
pub(crate) mod dispatch;
pub(crate) mod int;
pub(crate) mod math;
pub(crate) mod normal;
pub(crate) mod number;
pub(crate) mod philox;
pub(crate) mod real;
pub(crate) mod special;
pub(crate) mod stored;
