//! rpm's databases: headers of packages in an `SQLite` database or in rpm's own format (ndb).

use rusqlite::{Connection, MAIN_DB};

use super::rpm_header::Header;
use crate::PackageUrl;
use crate::package::{Distribution, Package, Supplier};
use crate::scan::{Malformed, Source};

/// The most that is read of a database; that of a whole desktop has a third of it.
const DATABASE_BYTES: u64 = 512 << 20;

pub(super) fn read_sqlite(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let mut bytes = source.bytes(DATABASE_BYTES)?;
    // A database that keeps a log says so in its header, and cannot be opened in memory then; without these marks it is
    // read as it was when the log was last written into it, which rpm does when it ends.
    if let Some(versions) = bytes.get_mut(18..20) {
        versions.fill(1);
    }
    let mut connection = Connection::open_in_memory()?;
    let length = bytes.len();
    connection.deserialize_read_exact(MAIN_DB, bytes.as_slice(), length, true)?;
    let mut statement = connection.prepare("SELECT blob FROM Packages ORDER BY hnum")?;
    let blobs = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    let mut packages = Vec::new();
    for blob in blobs {
        packages.extend(package(&Header::parse(&blob?)?, source.distribution));
    }
    Ok(packages)
}

pub(super) fn read_log(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    if source.size_bytes == 0 {
        return Ok(Vec::new());
    }
    Err(Malformed::Form("what it holds was not written into the database yet, and is not told of"))
}

/// rpm's own format: pages of slots, each of which says where the blob of a package is.
pub(super) fn read_ndb(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    const MAGIC: &[u8] = b"RpmP";
    const SLOT: &[u8] = b"Slot";
    const BLOB: &[u8] = b"BlbS";
    const PAGE: usize = 4096;
    const BLOCK: usize = 16;
    const SLOT_BYTES: usize = 16;
    let bytes = source.bytes(DATABASE_BYTES)?;
    let cut = Malformed::Form("it is cut short");
    let number = |at: usize| {
        let bytes = bytes.get(at..at.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    if !bytes.starts_with(MAGIC) {
        return Err(Malformed::Form("it is no package database of rpm"));
    }
    let Some(pages) = number(12) else { return Err(cut) };
    let slots = bytes.get(..pages.saturating_mul(PAGE)).unwrap_or(&bytes);
    let mut packages = Vec::new();
    // The first two slots' room is the header's.
    for at in (2 * SLOT_BYTES..slots.len()).step_by(SLOT_BYTES) {
        let is_used = number(at + 4).is_some_and(|package| package != 0);
        if !bytes[at..].starts_with(SLOT) || !is_used {
            continue;
        }
        let found = number(at + 8).and_then(|block| {
            let start = block.checked_mul(BLOCK)?;
            let length = number(start.checked_add(12)?)?;
            let blob = bytes.get(start..start.checked_add(16)?.checked_add(length)?)?;
            blob.starts_with(BLOB).then(|| &blob[16..])
        });
        let Some(blob) = found else { return Err(cut) };
        packages.extend(package(&Header::parse(blob)?, source.distribution));
    }
    Ok(packages)
}

pub(super) fn read_berkeley(_: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    Err(Malformed::Form(
        "databases of Berkeley DB, which rpm wrote before version 4.16, are not read; its packages are not told of",
    ))
}

fn package(header: &Header<'_>, distribution: Option<&Distribution>) -> Option<Package> {
    let (name, version) = (header.name()?, header.version()?);
    // Keys of those who sign packages are kept among them.
    if name == "gpg-pubkey" {
        return None;
    }
    let version = match header.release() {
        Some(release) => format!("{version}-{release}"),
        None => version.to_owned(),
    };
    let url = PackageUrl::new("rpm", name, &version)
        .within(distribution.map(|distribution| distribution.id.as_str()))
        .with("arch", header.architecture())
        .with("distro", distribution.map(Distribution::qualifier))
        .with("epoch", header.epoch().filter(|epoch| *epoch != 0).map(|epoch| epoch.to_string()))
        .with("upstream", header.source());
    let vendor = header.vendor().filter(|vendor| *vendor != "(none)");
    Some(Package {
        license: header.license().map(str::to_owned),
        supplier: vendor.map(|vendor| Supplier::Organization(vendor.to_owned())),
        homepage: header.page().map(str::to_owned),
        ..Package::new(url)
    })
}

#[cfg(test)]
mod tests {
    use super::super::rpm_header::tests::header;
    use super::*;
    use crate::scan::scan;
    use crate::scan::tests::Memory;

    fn bash() -> Vec<u8> {
        header(&[
            (1000, 6, b"bash\0".to_vec()),
            (1001, 6, b"5.2.26\0".to_vec()),
            (1002, 6, b"1.fc39\0".to_vec()),
            (1003, 4, 1_u32.to_be_bytes().to_vec()),
            (1011, 6, b"Fedora Project\0".to_vec()),
            (1014, 6, b"GPL-3.0-or-later\0".to_vec()),
            (1022, 6, b"x86_64\0".to_vec()),
            (1044, 6, b"bash-5.2.26-1.fc39.src.rpm\0".to_vec()),
        ])
    }

    fn key() -> Vec<u8> {
        header(&[(1000, 6, b"gpg-pubkey\0".to_vec()), (1001, 6, b"18b8e74c\0".to_vec())])
    }

    const RELEASE: (&str, &[u8]) = ("etc/os-release", b"ID=fedora\nVERSION_ID=39\n");
    const BASH: &str = "pkg:rpm/fedora/bash@5.2.26-1.fc39?arch=x86_64&distro=fedora-39&epoch=1&upstream=bash-5.2.26-1.fc39.src.rpm";

    fn sqlite(mode: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rpmdb.sqlite");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", mode).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)",
            )
            .unwrap();
        for blob in [key(), bash()] {
            connection.execute("INSERT INTO Packages (blob) VALUES (?)", [blob]).unwrap();
        }
        connection.close().unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn sqlite_databases_are_read_with_and_without_a_log() {
        for mode in ["wal", "delete"] {
            let database = sqlite(mode);
            let path = "usr/lib/sysimage/rpm/rpmdb.sqlite";
            let files = Memory::of(&[(path, database.as_slice()), RELEASE]);
            assert_eq!(files.urls(), [BASH], "{mode}");
        }
    }

    #[test]
    fn databases_of_rpm_itself_are_read() {
        let blob = bash();
        let mut bytes = vec![0_u8; 4096];
        bytes[..4].copy_from_slice(b"RpmP");
        bytes[12..16].copy_from_slice(&1_u32.to_le_bytes());
        bytes[32..36].copy_from_slice(b"Slot");
        bytes[36..40].copy_from_slice(&7_u32.to_le_bytes());
        bytes[40..44].copy_from_slice(&256_u32.to_le_bytes());
        bytes[48..52].copy_from_slice(b"Slot");
        bytes.extend(b"BlbS");
        bytes.extend([0; 8]);
        bytes.extend(u32::try_from(blob.len()).unwrap().to_le_bytes());
        bytes.extend(blob);
        let files = Memory::of(&[("var/lib/rpm/Packages.db", bytes.as_slice()), RELEASE]);
        assert_eq!(files.urls(), [BASH]);
        let short = Memory::of(&[("var/lib/rpm/Packages.db", &bytes[..5000 - 850])]);
        assert_eq!(scan(&short).unwrap().warnings[0].problem, "it is cut short");
    }

    #[test]
    fn what_is_not_read_is_told() {
        let files = Memory::of(&[
            ("var/lib/rpm/Packages", "x"),
            ("usr/share/rpm/rpmdb.sqlite", "no database"),
            ("usr/share/rpm/rpmdb.sqlite-wal", "something"),
        ]);
        let warnings = scan(&files).unwrap().warnings;
        let told: Vec<_> = warnings.iter().map(|warning| warning.path.to_str().unwrap()).collect();
        assert_eq!(
            told,
            ["/usr/share/rpm/rpmdb.sqlite", "/usr/share/rpm/rpmdb.sqlite-wal", "/var/lib/rpm/Packages"]
        );
    }
}
