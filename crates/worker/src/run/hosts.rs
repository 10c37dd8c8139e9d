//! The files of a RUN that say where names are found.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use sandbox::ConnectedNetwork;
use solver::ExtraHost;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What systemd-resolved itself asks; see systemd-resolved.service(8).
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// The address on which systemd-resolved answers.
const RESOLVED_STUB: &str = "127.0.0.53";

/// The content of `/etc/hosts`, in the peers' words.
pub(super) fn hosts(hostname: &str, extra: &[ExtraHost]) -> Vec<u8> {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for host in extra {
        writeln!(text, "{}\t{}", host.address, host.name).expect("a text takes everything");
    }
    text.into_bytes()
}

/// The content of `/etc/resolv.conf`: this machine's, empty where it has none. Name servers on its loopback devices are
/// named by where they answer in a network that is isolated from those.
pub(super) fn resolv_conf(is_isolated: bool) -> Vec<u8> {
    let content = resolv_conf_of(Path::new(RESOLV_CONF), Path::new(RESOLVED_CONF));
    if is_isolated { from_isolation(&content) } else { content }
}

fn from_isolation(content: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(content);
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let server = name_server(line).and_then(|server| server.parse::<IpAddr>().ok());
        let line = match server.filter(IpAddr::is_loopback) {
            Some(IpAddr::V4(_)) => format!("nameserver {}", ConnectedNetwork::NAMESERVER),
            Some(IpAddr::V6(_)) => format!("nameserver {}", ConnectedNetwork::NAMESERVER_V6),
            None => line.to_owned(),
        };
        // Only three name servers count, and one is not asked twice.
        if name_server(&line).is_none() || !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.iter().fold(String::new(), |text, line| text + line + "\n").into_bytes()
}

/// The server that a line of resolv.conf(5) names.
fn name_server(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|word| *word == "nameserver").and(words.next())
}

/// `path`'s content; where that only names the stub of systemd-resolved, which knows nothing itself and cannot be
/// reached from a network namespace, `real`'s.
fn resolv_conf_of(path: &Path, real: &Path) -> Vec<u8> {
    let content = fs::read(path).unwrap_or_default();
    if !names_only_the_stub(&content) {
        return content;
    }
    fs::read(real).unwrap_or(content)
}

fn names_only_the_stub(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    let servers: Vec<_> = text.lines().filter_map(name_server).collect();
    servers == [RESOLVED_STUB]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_has_this_host_and_those_that_were_added() {
        let added =
            |name: &str, address: &str| ExtraHost { name: name.to_owned(), address: address.to_owned() };
        let text = hosts("forge-17", &[added("db.test", "10.1.2.3"), added("six.test", "fd00::7")]);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "127.0.0.1\tlocalhost forge-17\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             10.1.2.3\tdb.test\nfd00::7\tsix.test\n"
        );
    }

    #[test]
    fn the_stub_of_systemd_resolved_is_seen_through() {
        let directory = tempfile::tempdir().unwrap();
        let (stub, real) = (directory.path().join("stub"), directory.path().join("real"));
        let missing = directory.path().join("missing");
        fs::write(&real, "nameserver 192.0.2.1\n").unwrap();
        fs::write(&stub, "# a comment\nnameserver 127.0.0.53\noptions edns0\n").unwrap();
        assert_eq!(resolv_conf_of(&stub, &real), b"nameserver 192.0.2.1\n");
        assert_eq!(resolv_conf_of(&stub, &missing), fs::read(&stub).unwrap());
        let other = "nameserver 127.0.0.53\nnameserver 192.0.2.2\n";
        fs::write(&stub, other).unwrap();
        assert_eq!(resolv_conf_of(&stub, &real), other.as_bytes());
        assert_eq!(resolv_conf_of(&missing, &real), b"");
    }

    #[test]
    fn name_servers_on_a_loopback_device_are_reached_from_isolation() {
        let text = "# nameserver 127.0.0.1\nsearch a.test\nnameserver 127.0.0.1\nnameserver 192.0.2.1\n\
                    nameserver 127.0.0.53\nnameserver ::1\noptions edns0";
        let expected = "# nameserver 127.0.0.1\nsearch a.test\nnameserver 192.0.0.3\nnameserver 192.0.2.1\n\
                        nameserver fd5c:7262:7569:6c64::3\noptions edns0\n";
        assert_eq!(String::from_utf8(from_isolation(text.as_bytes())).unwrap(), expected);
        assert_eq!(from_isolation(b""), b"");
    }
}
