//! The network of RUN steps on this machine.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use sandbox::PastaOptions;
use serde::Deserialize;
use worker::{DefaultNetwork, Otherwise};

use crate::programs;

/// A start takes some 50 ms; on a machine that is very busy many times that.
const START_DEADLINE: Duration = Duration::from_secs(5);

/// `networkMode` in `[worker.oci]` of config.toml: what steps get whose network is `default`. As with buildkitd, `auto`
/// is a network of its own where the means are there, and else the host's. Its `cni` and `bridge` are ways to make one
/// that are not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NetworkSetting {
    /// Isolated by pasta, or else the host's.
    #[default]
    #[serde(alias = "")]
    Auto,
    /// Isolated by pasta, or else an error.
    Pasta,
    /// The host's.
    Host,
    /// A loopback device alone.
    None,
}

impl NetworkSetting {
    /// What that means here; `path` is where programs are looked up.
    pub(crate) fn default_network(self, path: Option<&OsStr>) -> DefaultNetwork {
        let isolated = |otherwise| {
            let pasta = path.and_then(|path| programs::find("pasta", path)).map(|program| PastaOptions {
                program,
                start_deadline: START_DEADLINE,
                ports: Vec::new(),
            });
            DefaultNetwork::Isolated { pasta, otherwise }
        };
        match self {
            Self::Auto => isolated(Otherwise::Host),
            Self::Pasta => isolated(Otherwise::Fail),
            Self::Host => DefaultNetwork::Host,
            Self::None => DefaultNetwork::None,
        }
    }
}

/// The address of this machine that others reach it by: the one that it would call them from. Steps with a network of
/// their own reach it, too, as addresses of this machine are outside for them.
pub(crate) fn host_address() -> Option<IpAddr> {
    // Addresses of documentation, for which the default route counts. Connecting such a socket sends nothing.
    let ways: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(198, 51, 100, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    ways.into_iter().find_map(|(any, outside)| {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
        socket.connect(SocketAddr::new(outside, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
            .filter(|address| !address.is_loopback() && !address.is_unspecified())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn pasta_is_a_program_on_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let [plain, program] = ["plain", "program"].map(|name| directory.path().join(name));
        for (directory, mode) in [(&plain, 0o644), (&program, 0o755)] {
            std::fs::create_dir(directory).unwrap();
            std::fs::write(directory.join("pasta"), "").unwrap();
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(directory.join("pasta"), permissions).unwrap();
        }
        let path = std::env::join_paths([&plain, &PathBuf::from("relative"), &program]).unwrap();
        let found = NetworkSetting::Pasta.default_network(Some(&path));
        let program = program.join("pasta");
        let pasta = Some(PastaOptions { program, start_deadline: START_DEADLINE, ports: Vec::new() });
        assert_eq!(found, DefaultNetwork::Isolated { pasta, otherwise: Otherwise::Fail });
        let without = DefaultNetwork::Isolated { pasta: None, otherwise: Otherwise::Host };
        assert_eq!(NetworkSetting::Auto.default_network(Some(plain.as_os_str())), without);
        assert_eq!(NetworkSetting::Auto.default_network(None), without);
        assert_eq!(NetworkSetting::Host.default_network(Some(&path)), DefaultNetwork::Host);
        assert_eq!(NetworkSetting::None.default_network(Some(&path)), DefaultNetwork::None);
    }
}
