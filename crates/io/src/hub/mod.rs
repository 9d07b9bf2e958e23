//! Networks with published weights, as `torch.hub` and `torchvision.models` provide them.
//!
//! ```no_run
//! use kiln_io::hub::{self, Weights};
//! let model = hub::vgg16(Weights::ImageNet1k)?;
//! # Ok::<(), kiln_tensor::Error>(())
//! ```
//!
//! The file is looked for in `$KILN_HUB`, in the user's cache directory (`~/.cache/kiln/hub` on Linux), and where
//! PyTorch keeps it (`$TORCH_HOME/hub/checkpoints`, `~/.cache/torch/hub/checkpoints`). If it is in none of them, it is
//! downloaded from the official address, with the feature `download`; without the feature, the error says which file to
//! put where. A download's SHA-256 is compared with the full hash where that is publicly known (VGG16 and VGG19, with
//! and without batch normalization). Of the others, torchvision publishes only the first eight hexadecimal digits, as
//! part of the file's name, and these are compared, as PyTorch does with `check_hash=True`: that detects damage, but
//! not a file that somebody crafted to have the same eight digits.

use std::{
    env,
    path::{Path, PathBuf},
};

use kiln_derive::located;
use kiln_nn::ModuleTree;
use kiln_tensor::{Device, Error, Result, StateDict};

use crate::{load::load, load_options::LoadOptions};
use files::FILES;

mod files;
mod published;

pub use files::Weights;
pub use published::*;

/// Where torchvision's weights are.
const OFFICIAL: &str = "https://download.pytorch.org/models";
/// More than any of the files has, in bytes: a bound on what a server can make us store.
#[cfg(feature = "download")]
const MOST: u64 = 1 << 30;

/// Where weights are looked for.
#[derive(Clone, Debug)]
#[must_use]
pub struct Hub {
    /// The first one is where downloads go.
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
    /// The default folders and the official address.
    pub fn new() -> Hub {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = kiln_backend::cache_dir();
        let own = variable("KILN_HUB").or_else(|| cache.as_ref().map(|cache| cache.join("kiln").join("hub")));
        let torch = variable("TORCH_HOME").or_else(|| cache.as_ref().map(|cache| cache.join("torch")));
        let folders = own.into_iter().chain(torch.map(|torch| torch.join("hub").join("checkpoints"))).collect();
        Hub { folders, mirrors: vec![OFFICIAL.into()], download: true }
    }

    /// Searches only this folder.
    pub fn folder(self, folder: impl Into<PathBuf>) -> Hub {
        Hub { folders: vec![folder.into()], ..self }
    }

    /// Downloads from these addresses instead of the official one; each is a folder with files of the official
    /// names.
    pub fn mirrors<S: Into<String>>(self, mirrors: impl IntoIterator<Item = S>) -> Hub {
        Hub { mirrors: mirrors.into_iter().map(Into::into).collect(), ..self }
    }

    /// Whether a file that is in no folder is downloaded (by default it is, if Kiln was built with the feature).
    pub fn download(self, download: bool) -> Hub {
        Hub { download, ..self }
    }

    /// The path of a file with an official name such as `vgg16-397923af.pth`, downloaded if need be.
    ///
    /// # Errors
    /// If it is in none of the folders, and cannot or may not be downloaded.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let plain = Path::new(name).file_name().is_some_and(|file| file == name);
        let digits = name.rsplit_once('-').and_then(|(_, rest)| rest.split_once('.')).map_or("", |(digits, _)| digits);
        if !plain || digits.len() < 8 || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            let message = format!("{name:?} is not a file name of published weights, such as vgg16-397923af.pth");
            return Err(Error::argument("hub", message));
        }
        match self.folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()) {
            Some(found) => Ok(found),
            None => {
                let known = FILES.iter().find(|file| file.name() == name);
                self.fetch(name, known.map_or(digits, |file| file.sha256))
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

    /// The tensors of a file with an official name.
    ///
    /// # Errors
    /// Those of [`file`](Hub::file) and [`load`].
    pub fn state_dict(&self, name: &str, options: impl Into<LoadOptions>) -> Result<StateDict> {
        load(self.file(name)?, options)
    }

    /// A network with published weights, in evaluation mode: `net` is its name in torchvision, `make` creates it.
    ///
    /// ```no_run
    /// use kiln_io::hub::{Hub, Weights};
    /// use kiln_models::{VggOptions, vgg16};
    /// let hub = Hub::new().folder("weights");
    /// let model = hub.pretrained("vgg16", Weights::ImageNet1k, || vgg16(VggOptions::default()))?;
    /// # Ok::<(), kiln_tensor::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there are no such weights of this network; or those of [`state_dict`](Hub::state_dict) and `make`.
    pub fn pretrained<M: ModuleTree>(
        &self,
        net: &str,
        weights: Weights,
        make: impl FnOnce() -> Result<M>,
    ) -> Result<M> {
        let published = FILES.iter().find(|file| (file.net, file.weights) == (net, weights));
        let file = published
            .ok_or_else(|| Error::argument("hub", format!("no weights {weights:?} of {net:?} are published")))?;
        // The file first: creating a model that cannot be filled would waste seconds.
        let state = files::with_present_names(self.state_dict(&file.name(), Device::Cpu)?);
        let model = make()?;
        model.load_state_dict(&state, true)?;
        model.eval();
        Ok(model)
    }
}
