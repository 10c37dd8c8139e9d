//! The ports of EXPOSE.

use std::collections::BTreeSet;

use crate::quote::go_quote;

/// All ports that a specification names: `[[ip:]host:]container[/protocol]`, host and container perhaps ranges.
///
/// # Errors
/// The text of a diagnostic.
pub(super) fn expand(specification: &str, ports: &mut BTreeSet<String>) -> Result<(), String> {
    let (address, protocol) = match specification.split_once('/') {
        Some((address, protocol)) => (address, protocol.to_lowercase()),
        None => (specification, "tcp".to_owned()),
    };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid port: {}: invalid proto: {protocol}", go_quote(specification)));
    }
    let mut fields = address.rsplitn(3, ':');
    let container = fields.next().unwrap_or_default();
    let host = fields.next().unwrap_or_default();
    if container.is_empty() {
        return Err(format!("invalid port: {}: no port specified", go_quote(specification)));
    }
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
    ports.extend((first..=last).map(|port| format!("{port}/{protocol}")));
    Ok(())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| -> Option<u16> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
    };
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Result<Vec<String>, String> {
        let mut ports = BTreeSet::new();
        expand(text, &mut ports)?;
        Ok(ports.into_iter().collect())
    }

    #[test]
    fn specifications_name_ports() {
        let rows: &[(&str, &[&str])] = &[
            ("80", &["80/tcp"]),
            ("53/UDP", &["53/udp"]),
            ("8000-8002", &["8000/tcp", "8001/tcp", "8002/tcp"]),
            ("8080:80", &["80/tcp"]),
            ("127.0.0.1:8080:80/sctp", &["80/sctp"]),
        ];
        for (text, wanted) in rows {
            assert_eq!(ports(text).unwrap(), *wanted, "{text}");
        }
        let mistakes = [
            ("http", "invalid containerPort: http"),
            ("65536", "invalid containerPort: 65536"),
            ("9-8", "invalid containerPort: 9-8"),
            ("x:80", "invalid hostPort: x"),
            ("80/ftp", "invalid port: \"80/ftp\": invalid proto: ftp"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
        ];
        for (text, wanted) in mistakes {
            assert_eq!(ports(text).unwrap_err(), wanted, "{text}");
        }
    }
}
