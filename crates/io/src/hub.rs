//! Networks with published weights, as `torch.hub` and `torchvision.models` give them.
//!
//! ```no_run
//! use kiln_io::hub::{self, Weights};
//! let model = hub::vgg16(Weights::ImageNet1k)?;
//! # Ok::<(), kiln_tensor::Error>(())
//! ```
//!
//! The file is looked for in `$KILN_HUB`, in the user's cache directory (`~/.cache/kiln/hub` on Linux), and where PyTorch
//! keeps it (`$TORCH_HOME/hub/checkpoints`, `~/.cache/torch/hub/checkpoints`). If it is nowhere, it is downloaded from the
//! official address, with the feature `download`; else the error says what to put where. A download's SHA-256 is compared with
//! the whole sum where that is publicly known (VGG16 and VGG19, with and without batch normalization). Of the others
//! torchvision publishes the first eight digits alone, as part of the file's name, and these are compared, as PyTorch does with
//! `check_hash=True`: that finds damage, but not a file that somebody made to have the same eight digits.

use std::{
    env,
    path::{Path, PathBuf},
};

use kiln_derive::located;
use kiln_models::{Vgg, VggDepth, VggOptions};
use kiln_nn::ModuleTree;
use kiln_tensor::{Device, Error, Result, StateDict};

use crate::{LoadOptions, load};

/// Which published weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Trained on ImageNet with 1000 classes: torchvision's `IMAGENET1K_V1`.
    ImageNet1k,
}

/// Where torchvision's weights are.
const OFFICIAL: &str = "https://download.pytorch.org/models";
/// torchvision's VGGs: name, and the SHA-256 of the file, or as much of it as is publicly known. The first eight digits are part
/// of the file's name.
const VGGS: [(VggDepth, bool, &str, &str); 8] = [
    (VggDepth::Vgg11, false, "vgg11", "8a719046"),
    (VggDepth::Vgg11, true, "vgg11_bn", "6002323d"),
    (VggDepth::Vgg13, false, "vgg13", "19584684"),
    (VggDepth::Vgg13, true, "vgg13_bn", "abd245e5"),
    (VggDepth::Vgg16, false, "vgg16", "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"),
    (VggDepth::Vgg16, true, "vgg16_bn", "6c64b3138f2f4fcb3bcc4cafde11619c4f440eb1631787e93a682fd88305888a"),
    (VggDepth::Vgg19, false, "vgg19", "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"),
    (VggDepth::Vgg19, true, "vgg19_bn", "c79401a0cf3cb42714e4182f5868c7a6f4f4534f5df9e956e2bb2098de41cbb6"),
];

/// The official name of such a file.
fn file_name(stem: &str, sha256: &str) -> String {
    format!("{stem}-{}.pth", &sha256[..8])
}

/// More than any of them has: a bound on what a server can make us store.
#[cfg(feature = "download")]
const MOST: u64 = 1 << 30;

/// Where weights are looked for.
#[derive(Clone, Debug)]
#[must_use]
pub struct Hub {
    /// The first is where downloads go.
    folders: Vec<PathBuf>,
    mirrors: Vec<String>,
    download: bool,
}

impl Default for Hub {
    fn default() -> Self {
        Hub::new()
    }
}

#[located(site)]
impl Hub {
    /// The usual folders and the official address.
    pub fn new() -> Hub {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = crate::user_dir::cache_dir();
        let own = variable("KILN_HUB").or_else(|| cache.as_ref().map(|cache| cache.join("kiln").join("hub")));
        let torch = variable("TORCH_HOME").or_else(|| cache.as_ref().map(|cache| cache.join("torch")));
        let folders = own.into_iter().chain(torch.map(|torch| torch.join("hub").join("checkpoints"))).collect();
        Hub { folders, mirrors: vec![OFFICIAL.into()], download: true }
    }

    /// Only this folder.
    pub fn folder(self, folder: impl Into<PathBuf>) -> Hub {
        Hub { folders: vec![folder.into()], ..self }
    }

    /// Other addresses instead of the official one: of folders with files of the official names.
    pub fn mirrors<S: Into<String>>(self, mirrors: impl IntoIterator<Item = S>) -> Hub {
        Hub { mirrors: mirrors.into_iter().map(Into::into).collect(), ..self }
    }

    /// Whether what is in no folder is downloaded (it is, unless this is called, if Kiln was built with the feature).
    pub fn download(self, download: bool) -> Hub {
        Hub { download, ..self }
    }

    /// The path of a file with an official name like `vgg16-397923af.pth`, downloaded if need be.
    ///
    /// # Errors
    /// It is in none of the folders, and cannot or may not be downloaded.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let plain = Path::new(name).file_name().is_some_and(|file| file == name);
        let digits = name.rsplit_once('-').and_then(|(_, rest)| rest.split_once('.')).map_or("", |(digits, _)| digits);
        if !plain || digits.len() < 8 || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            let message = format!("{name:?} is no name of published weights, which is like vgg16-397923af.pth");
            return Err(Error::argument("hub", message));
        }
        match self.folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()) {
            Some(found) => Ok(found),
            None => {
                let known = VGGS.iter().find(|(.., stem, sha256)| file_name(stem, sha256) == name);
                self.fetch(name, known.map_or(digits, |(.., sha256)| sha256))
            }
        }
    }

    #[cfg(feature = "download")]
    fn fetch(&self, name: &str, sha256: &str) -> Result<PathBuf> {
        let Some(folder) = self.folders.first().filter(|_| self.download) else { return Err(self.not_found(name)) };
        let urls = self.addresses(name).collect();
        kiln_fetch::Download { target: folder.join(name), urls, sha256, packed: false, most: MOST }.run()
    }

    #[cfg(not(feature = "download"))]
    fn fetch(&self, name: &str, _: &str) -> Result<PathBuf> {
        Err(self.not_found(name))
    }

    fn addresses(&self, name: &str) -> impl Iterator<Item = String> {
        self.mirrors.iter().map(move |mirror| format!("{}/{name}", mirror.trim_end_matches('/')))
    }

    fn not_found(&self, name: &str) -> Error {
        let folders: Vec<String> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        let into = folders.first().map_or("a folder that `Hub::folder` names", String::as_str);
        let from: Vec<String> = self.addresses(name).collect();
        let how = if !cfg!(feature = "download") {
            "or build Kiln with the feature `download`"
        } else if self.download {
            "since this system has no cache directory"
        } else {
            "or allow `Hub::download`"
        };
        let message =
            format!("{name} is not in {}; put {} into {into}, {how}", folders.join(" nor "), from.join(" or "));
        Error::argument("hub", message)
    }

    /// The tensors of such a file.
    ///
    /// # Errors
    /// As [`file`](Hub::file) and [`load`].
    pub fn state_dict(&self, name: &str, options: impl Into<LoadOptions>) -> Result<StateDict> {
        load(self.file(name)?, options)
    }

    /// A VGG with published weights, in evaluation mode.
    ///
    /// # Errors
    /// As [`state_dict`](Hub::state_dict).
    pub fn vgg(&self, depth: VggDepth, batch_norm: bool, weights: Weights) -> Result<Vgg> {
        let Weights::ImageNet1k = weights;
        let published = VGGS.iter().find(|(d, norm, ..)| (*d, *norm) == (depth, batch_norm));
        let (.., stem, sha256) =
            published.ok_or_else(|| Error::argument("hub", format!("no weights are published for {depth:?}")))?;
        // The file first: making a model that cannot be filled takes seconds.
        let state = self.state_dict(&file_name(stem, sha256), Device::Cpu)?;
        let model = Vgg::new(depth, VggOptions::default().batch_norm(batch_norm))?;
        model.load_state_dict(&state, true)?;
        model.eval();
        Ok(model)
    }
}

macro_rules! vggs {
    ($($name:ident $with_norm:ident $depth:ident;)*) => {$(
        #[doc = concat!("torchvision's `", stringify!($name), "` with published weights, in evaluation mode.")]
        ///
        /// # Errors
        /// The weights are not on this machine and cannot be downloaded, or the file is damaged.
        pub fn $name(weights: Weights) -> Result<Vgg> {
            Hub::new().vgg(VggDepth::$depth, false, weights)
        }

        #[doc = concat!("torchvision's `", stringify!($with_norm), "` with published weights, in evaluation mode.")]
        ///
        /// # Errors
        /// The weights are not on this machine and cannot be downloaded, or the file is damaged.
        pub fn $with_norm(weights: Weights) -> Result<Vgg> {
            Hub::new().vgg(VggDepth::$depth, true, weights)
        }
    )*};
}
vggs! {
    vgg11 vgg11_bn Vgg11;
    vgg13 vgg13_bn Vgg13;
    vgg16 vgg16_bn Vgg16;
    vgg19 vgg19_bn Vgg19;
}
