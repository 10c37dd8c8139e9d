//! What is written into programs: the modules of Go, and the crates of Rust where `cargo auditable` built them.

use std::io::{self, Read, Seek, SeekFrom};

use flate2::read::ZlibDecoder;
use serde::Deserialize;

use super::go;
use crate::PackageUrl;
use crate::package::Package;
use crate::scan::{Malformed, Source};

/// The section of `cargo auditable`.
const RUST_SECTION: &str = ".dep-v0";
/// The most that such a section has, also unpacked.
const SECTION_BYTES: u64 = 16 << 20;
/// As many as the format can count without an extension.
const MOST_SECTIONS: u64 = 0xff00;

/// Of what is no ELF file for machines of the usual kind nothing is told, nor of one that is malformed: there are many
/// things with the mode of a program.
pub(super) fn read(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let mut file = source.open()?;
    let mut magic = [0; 4];
    match file.read_exact(&mut magic) {
        Ok(()) if magic == *b"\x7fELF" => {}
        Ok(()) => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let mut packages = Vec::new();
    if let Some(section) = section(&mut file, go::SECTION) {
        packages.extend(go::read_build_information(&section).unwrap_or_default());
    }
    if let Some(section) = section(&mut file, RUST_SECTION) {
        packages.extend(rust(&section).unwrap_or_default());
    }
    Ok(packages)
}

/// A section of a little-endian file of 32 or 64 bits, by its name.
fn section(file: &mut (impl Read + Seek), name: &str) -> Option<Vec<u8>> {
    let head = part(file, 0, 64)?;
    let is_wide = match (head.get(4)?, head.get(5)?) {
        (2, 1) => true,
        (1, 1) => false,
        _ => return None,
    };
    let (table, size, count, names) = if is_wide {
        (number(&head, 40, 8)?, number(&head, 58, 2)?, number(&head, 60, 2)?, number(&head, 62, 2)?)
    } else {
        (number(&head, 32, 4)?, number(&head, 46, 2)?, number(&head, 48, 2)?, number(&head, 50, 2)?)
    };
    if table == 0 || count > MOST_SECTIONS || size < if is_wide { 64 } else { 40 } {
        return None;
    }
    let table = part(file, table, size * count)?;
    let header = |index: u64| {
        let start = usize::try_from(index * size).ok()?;
        let header = table.get(start..start + usize::try_from(size).ok()?)?;
        Some(if is_wide {
            (number(header, 0, 4)?, number(header, 24, 8)?, number(header, 32, 8)?)
        } else {
            (number(header, 0, 4)?, number(header, 16, 4)?, number(header, 20, 4)?)
        })
    };
    let (_, start, length) = header(names)?;
    let names = part(file, start, length)?;
    let (_, start, length) = (0..count).filter_map(header).find(|(own, _, _)| {
        let own = usize::try_from(*own).ok().and_then(|own| names.get(own..));
        own.is_some_and(|own| own.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0)))
    })?;
    part(file, start, length)
}

/// `length` bytes of a file, at most those of a section; fewer where it ends before.
fn part(file: &mut (impl Read + Seek), start: u64, length: u64) -> Option<Vec<u8>> {
    if length > SECTION_BYTES {
        return None;
    }
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[derive(Deserialize)]
struct Crates {
    packages: Vec<Crate>,
}

#[derive(Deserialize)]
struct Crate {
    name: String,
    version: String,
    /// What only built it is not in it.
    #[serde(default)]
    kind: Option<String>,
}

fn rust(section: &[u8]) -> Option<Vec<Package>> {
    let mut text = Vec::new();
    ZlibDecoder::new(section).take(SECTION_BYTES).read_to_end(&mut text).ok()?;
    let crates: Crates = serde_json::from_slice(&text).ok()?;
    let built_in = crates.packages.iter().filter(|package| package.kind.as_deref() != Some("build"));
    Some(built_in.map(|own| Package::new(PackageUrl::new("cargo", &own.name, &own.version))).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use crate::scan::tests::Memory;

    /// A file of 64 bits with two sections: one of a name, and that of the names.
    fn elf(name: &str, content: &[u8]) -> Vec<u8> {
        let names = format!("\0{name}\0.shstrtab\0");
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        let place = |bytes: &mut Vec<u8>, content: &[u8]| {
            let start = bytes.len() as u64;
            bytes.extend(content);
            (start, content.len() as u64)
        };
        let places = [(1_u32, place(&mut bytes, content)), (2, place(&mut bytes, names.as_bytes()))];
        let table = bytes.len() as u64;
        bytes[40..48].copy_from_slice(&table.to_le_bytes());
        for (at, value) in [(58, 64_u16), (60, 2), (62, 1)] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        for (own, (start, length)) in places {
            let mut header = own.to_le_bytes().to_vec();
            header.resize(24, 0);
            header.extend(start.to_le_bytes());
            header.extend(length.to_le_bytes());
            header.resize(64, 0);
            bytes.extend(header);
        }
        bytes
    }

    #[test]
    fn crates_in_programs_are_told() {
        let json = br#"{"packages": [{"name": "serde", "version": "1.0.200", "source": "registry"},
            {"name": "cc", "version": "1.0.0", "source": "registry", "kind": "build"}]}"#;
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(json).unwrap();
        let program = elf(".dep-v0", &encoder.finish().unwrap());
        let files = Memory::of(&[
            ("usr/bin/app*", program.as_slice()),
            ("usr/bin/script*", b"#!/bin/sh\n".as_slice()),
            ("usr/bin/short*", b"\x7fELF".as_slice()),
            ("usr/bin/x*", b"x".as_slice()),
            ("usr/share/app", program.as_slice()),
        ]);
        assert_eq!(files.urls(), ["pkg:cargo/serde@1.0.200"]);
        for length in 4..program.len() {
            Memory::of(&[("app*", &program[..length])]).urls();
        }
    }
}
