//! What this program was built from, and which interfaces it speaks.
//!
//! Owns the answer to both ends of `davit version`: the daemon tells it of itself, the command line of itself. `build.rs` finds out what it can't know.

use davit_proto::admin::{AboutResponse, Interface};
use davit_runtime::image::Platform;

/// This program's.
pub(crate) fn version() -> AboutResponse {
    let Platform { os, architecture, variant: _ } = Platform::host();
    let interface = |name: &str, kubernetes: &str| Interface {
        name: name.to_owned(),
        version: "v1".to_owned(),
        kubernetes: kubernetes.to_owned(),
    };
    AboutResponse {
        version: crate::VERSION.to_owned(),
        commit: env!("DAVIT_BUILD_COMMIT").to_owned(),
        rustc: env!("DAVIT_BUILD_RUSTC").to_owned(),
        os,
        arch: architecture,
        interfaces: vec![interface("cri", davit_proto::KUBERNETES), interface("davit", "")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_is_empty() {
        let told = version();
        for text in [&told.version, &told.commit, &told.rustc, &told.os, &told.arch] {
            assert!(!text.is_empty(), "{told:?}");
        }
        let hexadecimal = told.commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(told.commit == "unknown" || (hexadecimal && told.commit.len() >= 40), "{told:?}");
    }
}
