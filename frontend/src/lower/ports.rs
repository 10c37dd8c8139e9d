//! The ports of EXPOSE.

use std::net::IpAddr;

use crate::quote::go_quote;

/// One word of EXPOSE taken apart: `[[address:]host:]container[/protocol]`. Host and container may be ranges; only
/// the container's ports come into the image.
#[derive(Debug)]
pub(super) struct Specification<'a> {
    address: &'a str,
    host: &'a str,
    container: &'a str,
    /// As it was written.
    protocol: &'a str,
}

impl<'a> Specification<'a> {
    /// Takes a word apart. Its parts are known to be there, and the protocol to be one; addresses and numbers are
    /// checked by [`Specification::ports`] alone, so that what looks odd can be told even of what is wrong.
    ///
    /// # Errors
    /// The text of a diagnostic.
    pub(super) fn parse(word: &'a str) -> Result<Self, String> {
        let mistake = |what: &str| format!("invalid port: {}: {what}", go_quote(word));
        // An address may have colons of its own.
        let mut parts = word.rsplitn(3, ':');
        let last = parts.next().unwrap_or_default();
        let (host, address) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (container, protocol) = last.split_once('/').unwrap_or((last, ""));
        if container.is_empty() {
            return Err(mistake("no port specified"));
        }
        let protocol = if protocol.is_empty() { "tcp" } else { protocol };
        if !matches!(protocol.to_lowercase().as_str(), "tcp" | "udp" | "sctp") {
            return Err(mistake(&format!("invalid proto: {protocol}")));
        }
        Ok(Self { address, host, container, protocol })
    }

    /// Whether the protocol was not written in small letters.
    pub(super) fn protocol_has_capitals(&self) -> bool {
        self.protocol != self.protocol.to_lowercase()
    }

    /// Whether there is an address or a port of the host, which an image has no use for.
    pub(super) fn names_the_host(&self) -> bool {
        !self.address.is_empty() || !self.host.is_empty()
    }

    /// The ports (`80/tcp`), in ascending order; there is at least one.
    ///
    /// # Errors
    /// The text of a diagnostic.
    pub(super) fn ports(&self) -> Result<impl Iterator<Item = String> + use<>, String> {
        let Self { address, host, container, protocol } = self;
        check_address(address)?;
        let (first, last) = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
        if !host.is_empty() {
            let (host_first, host_last) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
            // One container port may be published on any of several host ports.
            if host_last - host_first != last - first && first != last {
                return Err(format!(
                    "invalid ranges specified for container and host Ports: {container} and {host}"
                ));
            }
        }
        let protocol = protocol.to_lowercase();
        Ok((first..=last).map(move |port| format!("{port}/{protocol}")))
    }
}

/// Whether an address is none or that of a host, IPv6 perhaps in brackets.
fn check_address(address: &str) -> Result<(), String> {
    let plain = match address.strip_prefix('[') {
        Some(inner) => without_bracket(inner).map_err(|what| {
            // A colon was put behind it, since ports usually follow.
            format!("invalid IP address {address}: address {address}:: {what}")
        })?,
        None => address,
    };
    if plain.is_empty() || plain.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(format!("invalid IP address: {plain}"))
}

/// What stands before the closing bracket, which has to be the end. The mistakes are those of Go's
/// `net.SplitHostPort`.
fn without_bracket(inner: &str) -> Result<&str, &'static str> {
    let Some((plain, behind)) = inner.split_once(']') else { return Err("missing ']' in address") };
    match behind.chars().next() {
        Some(':') => Err("too many colons in address"),
        Some(_) => Err("missing port in address"),
        None if plain.contains('[') => Err("unexpected '[' in address"),
        None => Ok(plain),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

/// A number may have a sign, as in Go: `+80` is 80 and `-0` is 0.
fn port(text: &str) -> Option<u16> {
    text.parse::<i64>().ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(word: &str) -> Result<Vec<String>, String> {
        Ok(Specification::parse(word)?.ports()?.collect())
    }

    #[test]
    fn specifications_name_ports() {
        let rows: &[(&str, &[&str])] = &[
            ("80", &["80/tcp"]),
            ("0", &["0/tcp"]),
            ("080", &["80/tcp"]),
            ("80/", &["80/tcp"]),
            ("53/UDP", &["53/udp"]),
            ("99-101", &["99/tcp", "100/tcp", "101/tcp"]),
            ("8-8/udp", &["8/udp"]),
            ("+8-+9", &["8/tcp", "9/tcp"]),
            ("0--0", &["0/tcp"]),
            ("8080:80", &["80/tcp"]),
            ("+8080:80", &["80/tcp"]),
            (":80", &["80/tcp"]),
            ("::80", &["80/tcp"]),
            ("8000-8100:80", &["80/tcp"]),
            ("1-2:3-4", &["3/tcp", "4/tcp"]),
            ("127.0.0.1:8080:80/sctp", &["80/sctp"]),
            ("127.0.0.1::80", &["80/tcp"]),
            ("[::1]:80:80", &["80/tcp"]),
            ("[2001:4860:0:2001::68]::333", &["333/tcp"]),
            ("2001:4860:0:2001::68::333", &["333/tcp"]),
            ("::1:80:80", &["80/tcp"]),
            ("::::80", &["80/tcp"]),
            ("[127.0.0.1]:1:2", &["2/tcp"]),
            ("[]:1:2", &["2/tcp"]),
        ];
        for (text, wanted) in rows {
            assert_eq!(ports(text).unwrap(), *wanted, "{text}");
        }
        assert_eq!(ports("0-65535").unwrap().len(), 65536);
    }

    #[test]
    fn mistakes_are_told() {
        let rows = [
            ("http", "invalid containerPort: http"),
            ("65536", "invalid containerPort: 65536"),
            ("-1", "invalid containerPort: -1"),
            ("8 ", "invalid containerPort: 8 "),
            ("9-8", "invalid containerPort: 9-8"),
            ("1-", "invalid containerPort: 1-"),
            ("1-2-3", "invalid containerPort: 1-2-3"),
            ("99999999999999999999", "invalid containerPort: 99999999999999999999"),
            ("x:80", "invalid hostPort: x"),
            ("1/tcp:80", "invalid hostPort: 1/tcp"),
            ("1-3:3-4", "invalid ranges specified for container and host Ports: 3-4 and 1-3"),
            ("localhost:1:2", "invalid IP address: localhost"),
            ("127.0.0.01:1:2", "invalid IP address: 127.0.0.01"),
            ("fe80::1%eth0:1:2", "invalid IP address: fe80::1%eth0"),
            ("[x]:1:2", "invalid IP address: x"),
            ("[::1:1:2", "invalid IP address [::1: address [::1:: missing ']' in address"),
            ("[::1]x:1:2", "invalid IP address [::1]x: address [::1]x:: missing port in address"),
            ("[::1]:9:1:2", "invalid IP address [::1]:9: address [::1]:9:: too many colons in address"),
            ("[[::1]:1:2", "invalid IP address [[::1]: address [[::1]:: unexpected '[' in address"),
            ("x:http", "invalid containerPort: http"),
            ("80/FTP", "invalid port: \"80/FTP\": invalid proto: FTP"),
            ("80/tcp/udp", "invalid port: \"80/tcp/udp\": invalid proto: tcp/udp"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("80:", "invalid port: \"80:\": no port specified"),
            ("x:1:/ftp", "invalid port: \"x:1:/ftp\": no port specified"),
        ];
        for (text, wanted) in rows {
            assert_eq!(ports(text).unwrap_err(), wanted, "{text}");
        }
    }

    #[test]
    fn what_looks_odd_is_known_before_anything_is_checked() {
        let rows = [
            ("80", false, false),
            ("80/tcp", false, false),
            ("80/TcP", true, false),
            ("http/UDP", true, false),
            (":80", false, false),
            ("8080:80", false, true),
            ("x:80", false, true),
            ("127.0.0.1::80", false, true),
        ];
        for (text, has_capitals, names_the_host) in rows {
            let specification = Specification::parse(text).unwrap();
            assert_eq!(specification.protocol_has_capitals(), has_capitals, "{text}");
            assert_eq!(specification.names_the_host(), names_the_host, "{text}");
        }
    }
}
