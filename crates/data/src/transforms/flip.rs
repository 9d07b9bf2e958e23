//! `RandomHorizontalFlip` and `RandomVerticalFlip`.

use kiln_tensor::{Error, Result};

use super::{Transform, image_ops::ImageOps};
use crate::random;

macro_rules! flip {
    ($(#[$doc:meta])* $name:ident $flip:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name {
            p: f64,
        }

        impl $name {
            /// Flips with probability `p`.
            ///
            /// # Errors
            /// If `p` is not a probability.
            pub fn new(p: f64) -> Result<$name> {
                if (0.0..=1.0).contains(&p) {
                    Ok($name { p })
                } else {
                    Err(Error::argument(stringify!($name), format!("{p} is not a probability")))
                }
            }
        }

        impl Default for $name {
            fn default() -> $name {
                $name { p: 0.5 }
            }
        }

        impl $name {
            /// Draws whether an image is flipped.
            pub(super) fn draw(&self) -> bool {
                random::stream().bernoulli(self.p)
            }
        }

        impl<P: ImageOps> Transform<P> for $name {
            type Output = P;
            fn apply(&self, image: P) -> Result<P> {
                if self.draw() { image.$flip() } else { Ok(image) }
            }
        }
    };
}
flip!(
    /// Mirrors left and right at random, with probability 0.5 by default.
    RandomHorizontalFlip flip_horizontal
);
flip!(
    /// Mirrors top and bottom at random, with probability 0.5 by default.
    RandomVerticalFlip flip_vertical
);
