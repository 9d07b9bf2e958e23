//! Published weights: found in a folder, downloaded from a server, or an error that says which file to put where.

use std::{fs, path::Path};

use kiln_io::{
    hub::{Hub, Weights},
    save,
};
use kiln_models::{VggOptions, VisionTransformer, vgg16_bn};
use kiln_tensor::{Device, Result, StateDict, Tensor};
use sha2::{Digest, Sha256};
use tempfile::tempdir;

use crate::checkout;

/// A file of weights, and the name that it would be published under.
fn published(folder: &Path) -> (String, Vec<u8>) {
    let path = folder.join("weights");
    save(&path, &StateDict::from([("w".to_owned(), Tensor::ones([2, 3], Device::Cpu).unwrap())])).unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    let digits: String = Sha256::digest(&bytes).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    (format!("net-{digits}.pth"), bytes)
}

#[test]
fn a_file_in_the_folder_is_used_and_a_missing_one_explained() {
    let folder = tempdir().unwrap();
    let (name, bytes) = published(folder.path());
    let hub = Hub::new().folder(folder.path()).download(false);
    let message = hub.state_dict(&name, Device::Cpu).unwrap_err().to_string();
    for part in [&*name, "https://download.pytorch.org/models/net-", folder.path().to_str().unwrap(), "download"] {
        assert!(message.contains(part), "{message}");
    }
    fs::write(folder.path().join(&name), &bytes).unwrap();
    assert_eq!(hub.state_dict(&name, Device::Cpu).unwrap()["w"].dims(), [2, 3]);

    let message =
        hub.pretrained("vgg16_bn", Weights::ImageNet1k, || vgg16_bn(VggOptions::default())).unwrap_err().to_string();
    assert!(message.contains("vgg16_bn-6c64b313.pth"), "{message}");
    let none = hub.pretrained("resnet18", Weights::ImageNet1kV2, || vgg16_bn(VggOptions::default()));
    assert!(none.unwrap_err().to_string().contains("no weights ImageNet1kV2 of \"resnet18\""));
    for bad in ["../net-01234567.pth", "net.pth", "net-0123.pth", "net-0123456g.pth", ""] {
        assert!(hub.file(bad).unwrap_err().to_string().contains("not a file name"), "{bad:?}");
    }
}

/// Each file that torchvision publishes for a network, by its name there (`tests/golden/make_hub.py`).
#[test]
fn all_published_weights_are_known() {
    let list: serde_json::Value =
        serde_json::from_slice(&fs::read(checkout::path("tests/golden/hub.json")).unwrap()).unwrap();
    let empty = tempdir().unwrap();
    let hub = Hub::new().folder(empty.path()).download(false);
    let mut count = 0;
    for file in list.as_array().unwrap() {
        let [net, weights, name] = ["net", "weights", "file"].map(|key| file[key].as_str().unwrap());
        let weights = match weights {
            "IMAGENET1K_V1" => Weights::ImageNet1k,
            "IMAGENET1K_V2" => Weights::ImageNet1kV2,
            "IMAGENET1K_SWAG_E2E_V1" => Weights::ImageNet1kSwagE2e,
            "IMAGENET1K_SWAG_LINEAR_V1" => Weights::ImageNet1kSwagLinear,
            other => panic!("{net}: {other}"),
        };
        let made = hub.pretrained(net, weights, || -> Result<VisionTransformer> { panic!("before its file is there") });
        let message = made.unwrap_err().to_string();
        assert!(message.contains(name), "{net}: {message}");
        count += 1;
    }
    assert!(count > 30);
}

#[cfg(feature = "download")]
mod download {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// Serves `body` to whoever asks for `name`, 404 otherwise; counts nothing and never ends.
    fn serve(name: String, body: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/models", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let found = lines.next().is_some_and(|line| line.starts_with(&format!("GET /models/{name} ")));
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let (status, body) = if found { ("200 OK", &body[..]) } else { ("404 Not Found", &b""[..]) };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(&[head.as_bytes(), body].concat());
            }
        });
        address
    }

    #[test]
    fn what_is_missing_is_fetched_once_and_checked() {
        let folder = tempdir().unwrap();
        let (name, bytes) = published(folder.path());
        let cache = folder.path().join("cache");
        let right = serve(name.clone(), bytes.clone());
        let wrong = serve(name.clone(), b"something else".to_vec());

        let message = Hub::new().folder(&cache).mirrors([&wrong]).file(&name).unwrap_err().to_string();
        assert!(message.contains("wrong contents") && message.contains(&wrong), "{message}");
        assert!(!cache.join(&name).exists());

        let hub = Hub::new().folder(&cache).mirrors([wrong, right]);
        assert_eq!(hub.state_dict(&name, Device::Cpu).unwrap()["w"].dims(), [2, 3]);
        assert_eq!(fs::read(cache.join(&name)).unwrap(), bytes);
        // The second time nobody is asked.
        let nobody: [&str; 0] = [];
        assert!(Hub::new().folder(&cache).mirrors(nobody).file(&name).is_ok());
        // Where the whole sum is known, it is the whole sum that is compared.
        let other = serve("vgg16-397923af.pth".into(), bytes);
        let message = Hub::new().folder(&cache).mirrors([other]).file("vgg16-397923af.pth").unwrap_err().to_string();
        assert!(
            message.contains("expected 397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"),
            "{message}"
        );
        let message = hub.file("net-01234567.pth").unwrap_err().to_string();
        assert!(message.contains("404") && message.contains("yourself"), "{message}");
    }
}
