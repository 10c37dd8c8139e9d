//! SPDX documents (version 2.3, JSON).

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::license::License;
use crate::package::{Package, Supplier};
use crate::scan::{Inventory, Warning};

/// What a document says beside the packages.
#[derive(Debug, Clone)]
pub struct DocumentOptions<'o> {
    /// What was scanned; the name of the document.
    pub name: &'o str,
    /// What tells it from others of this name: digests, say. Equal texts and packages give the same document.
    pub identity: &'o str,
    /// When what was scanned was made, RFC 3339; whole seconds count.
    pub created: &'o str,
    /// Who made the document: `rbuild-1.0.0`.
    pub tool: &'o str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'d> {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: &'d str,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(rename = "documentNamespace")]
    namespace: String,
    creation_info: CreationInfo,
    packages: Vec<SpdxPackage>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    has_extracted_licensing_infos: Vec<ExtractedLicense>,
    relationships: Vec<Relationship>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreationInfo {
    created: String,
    creators: [String; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpdxPackage {
    name: String,
    #[serde(rename = "SPDXID")]
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_info: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    supplier: Option<String>,
    download_location: &'static str,
    files_analyzed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    homepage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_info: Option<String>,
    license_concluded: &'static str,
    license_declared: String,
    copyright_text: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<ExternalRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_package_purpose: Option<&'static str>,
}

#[derive(Serialize)]
struct ExternalRef {
    #[serde(rename = "referenceCategory")]
    category: &'static str,
    #[serde(rename = "referenceType")]
    kind: &'static str,
    #[serde(rename = "referenceLocator")]
    locator: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExtractedLicense {
    license_id: String,
    extracted_text: String,
    name: String,
}

#[derive(Serialize)]
struct Relationship {
    #[serde(rename = "spdxElementId")]
    from: String,
    #[serde(rename = "relationshipType")]
    kind: &'static str,
    #[serde(rename = "relatedSpdxElement")]
    to: String,
}

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const ROOT: &str = "SPDXRef-DocumentRoot";
const UNKNOWN: &str = "NOASSERTION";

/// The document of what was found: it describes one package, the file system, which contains all others.
pub fn document(inventory: &Inventory, options: &DocumentOptions<'_>) -> serde_json::Result<Vec<u8>> {
    let mut licenses = BTreeMap::new();
    let mut packages = vec![root(inventory, options)];
    packages.extend(inventory.packages.iter().map(|package| spdx_package(package, &mut licenses)));
    let relation =
        |from: &str, kind, to: &str| Relationship { from: from.to_owned(), kind, to: to.to_owned() };
    let mut relationships = vec![relation(DOCUMENT, "DESCRIBES", ROOT)];
    relationships.extend(packages.iter().skip(1).map(|package| relation(ROOT, "CONTAINS", &package.id)));
    let extracted = |(id, text): (String, String)| ExtractedLicense {
        license_id: id,
        name: text.clone(),
        extracted_text: text,
    };
    let document = Document {
        spdx_version: "SPDX-2.3",
        data_license: "CC0-1.0",
        id: DOCUMENT,
        name: options.name,
        comment: comment(inventory),
        namespace: namespace(&packages, options),
        creation_info: CreationInfo {
            created: whole_seconds(options.created),
            creators: [format!("Tool: {}", options.tool)],
        },
        packages,
        has_extracted_licensing_infos: licenses.into_iter().map(extracted).collect(),
        relationships,
    };
    serde_json::to_vec(&document)
}

/// What is missing in the document.
fn comment(inventory: &Inventory) -> Option<String> {
    let told = |warning: &Warning| format!("{}: {}", warning.path.display(), warning.problem);
    let missing: Vec<String> = inventory.warnings.iter().map(told).collect();
    (!missing.is_empty()).then(|| format!("not read: {}", missing.join("; ")))
}

fn root(inventory: &Inventory, options: &DocumentOptions<'_>) -> SpdxPackage {
    SpdxPackage {
        name: options.name.to_owned(),
        id: ROOT.to_owned(),
        version_info: None,
        supplier: None,
        download_location: UNKNOWN,
        files_analyzed: false,
        homepage: None,
        source_info: inventory.distribution.as_ref().and_then(|distribution| distribution.name.clone()),
        license_concluded: UNKNOWN,
        license_declared: UNKNOWN.to_owned(),
        copyright_text: UNKNOWN,
        external_refs: Vec::new(),
        primary_package_purpose: Some("CONTAINER"),
    }
}

fn spdx_package(package: &Package, licenses: &mut BTreeMap<String, String>) -> SpdxPackage {
    let license = package.license.as_deref().and_then(License::of);
    if let Some(License::Other { id, text }) = &license {
        licenses.insert(id.clone(), text.clone());
    }
    let url = package.url.to_string();
    let supplier = package.supplier.as_ref().map(|supplier| match supplier {
        Supplier::Person(name) => format!("Person: {}", with_address_in_brackets(name)),
        Supplier::Organization(name) => format!("Organization: {name}"),
    });
    SpdxPackage {
        name: package.url.full_name(),
        id: identifier(package, &url),
        version_info: package.url.version.clone(),
        supplier,
        download_location: UNKNOWN,
        files_analyzed: false,
        homepage: package.homepage.clone().filter(|page| is_page(page)),
        source_info: Some(source_info(&package.found_in)),
        license_concluded: UNKNOWN,
        license_declared: license.map_or(UNKNOWN.to_owned(), |license| license.expression().to_owned()),
        copyright_text: UNKNOWN,
        external_refs: vec![ExternalRef { category: "PACKAGE-MANAGER", kind: "purl", locator: url }],
        primary_package_purpose: None,
    }
}

fn source_info(found_in: &BTreeSet<String>) -> String {
    let files: Vec<&str> = found_in.iter().map(String::as_str).collect();
    format!("found in {}", files.join(", "))
}

/// SPDX writes addresses in round brackets.
fn with_address_in_brackets(name: &str) -> String {
    match name.split_once('<').map(|(name, rest)| (name.trim_end(), rest.split('>').next().unwrap_or(rest))) {
        Some((name, address)) if !name.is_empty() => format!("{name} ({address})"),
        _ => name.to_owned(),
    }
}

fn is_page(text: &str) -> bool {
    (text.starts_with("https://") || text.starts_with("http://")) && !text.contains(char::is_whitespace)
}

/// Made of what is in the package URL, so that it stays while other packages come and go.
fn identifier(package: &Package, url: &str) -> String {
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let name: String = package.url.name.chars().map(|c| if is_allowed(&c) { c } else { '-' }).collect();
    let hash = hex::encode(Sha256::digest(url));
    format!("SPDXRef-Package-{}-{name}-{}", package.url.kind, &hash[..16])
}

/// A URI that no other document has: a hash of all that this one says.
fn namespace(packages: &[SpdxPackage], options: &DocumentOptions<'_>) -> String {
    let mut hash = Sha256::new();
    for text in [options.identity, options.created, options.tool] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    for package in packages {
        hash.update(serde_json::to_vec(package).unwrap_or_default());
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name: String = options.name.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    format!("https://spdx.org/spdxdocs/{name}-{}", hex::encode(hash.finalize()))
}

/// SPDX allows no fractions.
fn whole_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;
    use crate::scan::scan;
    use crate::scan::tests::Memory;

    fn of(files: &Memory) -> String {
        let options = DocumentOptions {
            name: "app:v1",
            identity: "sha256:00",
            created: "2024-05-06T07:08:09.123Z",
            tool: "rbuild-0.1.0",
        };
        let bytes = document(&scan(files).unwrap(), &options).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        format!("{value:#}")
    }

    #[test]
    fn a_document_says_what_there_is() {
        let apk = "P:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\nm:Timo <t@example.org>\nU:https://musl.libc.org/\n\n\
            P:odd+one\nV:1\nA:x86_64\nL:custom BSD\n";
        let files = Memory::of(&[
            ("lib/apk/db/installed", apk),
            ("app/Pipfile.lock", "{"),
            ("etc/os-release", "ID=alpine\nVERSION_ID=3.19\nPRETTY_NAME=\"Alpine Linux v3.19\"\n"),
        ]);
        expect_file!["../testdata/document.json"].assert_eq(&of(&files));
    }

    #[test]
    fn equal_files_give_equal_documents_and_others_do_not() {
        let one = Memory::of(&[("Cargo.lock", "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n")]);
        let other = Memory::of(&[("Cargo.lock", "[[package]]\nname = \"a\"\nversion = \"1.0.1\"\n")]);
        assert_eq!(of(&one), of(&one));
        let namespace =
            |text: &str| text.lines().find(|line| line.contains("documentNamespace")).map(str::to_owned);
        assert_ne!(namespace(&of(&one)), namespace(&of(&other)));
    }
}
