//! `--publish`.

use std::net::IpAddr;

use sandbox::{PortForward, Transport};

use crate::values::Mistake;

/// `[ADDRESS:]OUTER[-OUTER]:INNER[-INNER][/tcp|/udp]`.
pub(super) fn publish(text: &str) -> Result<PortForward, Mistake> {
    let wrong = |problem: &str| format!("invalid value `{text}` for `--publish`: {problem}");
    let malformed = || wrong("it should be `[ADDRESS:]PORT:PORT[/udp]`");
    let (ports, transport) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.split('/').next().unwrap_or_default(), Transport::Tcp),
        Some((ports, "udp")) => (ports, Transport::Udp),
        Some((_, other)) => return Err(wrong(&format!("`{other}` is not supported: `tcp` and `udp` are"))),
    };
    let (rest, inner) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (address, outer) = match rest.rsplit_once(':') {
        Some((address, outer)) => (Some(address), outer),
        None => (None, rest),
    };
    if outer.is_empty() {
        return Err(wrong("it has to name the port of this machine too"));
    }
    let address = address.filter(|address| !address.is_empty()).map(|address| {
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        bare.parse::<IpAddr>().map_err(|_| wrong(&format!("`{address}` is no address")))
    });
    let range = |text: &str| -> Result<(u16, u16), Mistake> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(malformed);
        let (first, last) = (number(first)?, number(last)?);
        let count = last.checked_sub(first).and_then(|more| more.checked_add(1)).ok_or_else(malformed)?;
        Ok((first, count))
    };
    let ((outer, count), (inner, inner_count)) = (range(outer)?, range(inner)?);
    if count != inner_count {
        return Err(wrong("there are not as many ports on both sides"));
    }
    Ok(PortForward { transport, address: address.transpose()?, outer, inner, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let forward = |transport, address: Option<&str>, outer, inner, count| {
            let address = address.map(|address| address.parse().unwrap());
            Ok(PortForward { transport, address, outer, inner, count })
        };
        assert_eq!(publish("8080:80"), forward(Transport::Tcp, None, 8080, 80, 1));
        assert_eq!(publish("127.0.0.1:53:5353/udp"), forward(Transport::Udp, Some("127.0.0.1"), 53, 5353, 1));
        assert_eq!(publish("[::1]:8000-8002:1-3/tcp"), forward(Transport::Tcp, Some("::1"), 8000, 1, 3));
        for (text, problem) in [
            ("80", "it has to name the port of this machine too"),
            ("127.0.0.1::80", "it has to name the port of this machine too"),
            ("0:80", "it should be `[ADDRESS:]PORT:PORT[/udp]`"),
            ("8-7:1-2", "it should be `[ADDRESS:]PORT:PORT[/udp]`"),
            ("1-2:1", "there are not as many ports on both sides"),
            ("host:1:1", "`host` is no address"),
            ("1:1/sctp", "`sctp` is not supported: `tcp` and `udp` are"),
        ] {
            assert_eq!(publish(text), Err(format!("invalid value `{text}` for `--publish`: {problem}")));
        }
    }
}
