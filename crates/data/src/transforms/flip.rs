//! Mirroring at random.

use kiln_tensor::{Error, Result};

use super::{Picture, Transform};
use crate::draw;

macro_rules! flip {
    ($(#[$doc:meta])* $name:ident $flip:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name {
            p: f64,
        }

        impl $name {
            /// With probability `p`.
            ///
            /// # Errors
            /// `p` is not a probability.
            pub fn new(p: f64) -> Result<$name> {
                if (0.0..=1.0).contains(&p) {
                    Ok($name { p })
                } else {
                    Err(Error::argument(stringify!($name), format!("{p} is no probability")))
                }
            }
        }

        impl Default for $name {
            fn default() -> $name {
                $name { p: 0.5 }
            }
        }

        impl $name {
            /// Draws whether a picture is flipped.
            pub(super) fn happens(&self) -> bool {
                draw::stream().chance(self.p)
            }
        }

        impl<P: Picture> Transform<P> for $name {
            type Output = P;
            fn apply(&self, picture: P) -> Result<P> {
                if self.happens() { picture.$flip() } else { Ok(picture) }
            }
        }
    };
}
flip!(
    /// Exchanges left and right, with probability 0.5 by default.
    RandomHorizontalFlip flip_horizontal
);
flip!(
    /// Exchanges top and bottom, with probability 0.5 by default.
    RandomVerticalFlip flip_vertical
);
