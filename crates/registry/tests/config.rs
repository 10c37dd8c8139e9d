//! The configuration of hosts, in buildkitd.toml's form.

use registry::{HostConfig, HostConfigs, KeyPair};

#[derive(Debug, serde::Deserialize)]
struct File {
    registry: HostConfigs,
}

#[test]
fn tables_of_buildkitd_are_read() {
    let text = r#"
        [registry."docker.io"]
          mirrors = ["127.0.0.1:5000/path", "mirror.example"]
        [registry."127.0.0.1:5000"]
          http = true
          insecure = true
          ca = ["/a.pem"]
          maxConcurrency = 2
          tlsconfigdir = ["/certs"]
          [[registry."127.0.0.1:5000".keypair]]
            key = "/key.pem"
            cert = "/cert.pem"
    "#;
    let hosts = toml::from_str::<File>(text).unwrap().registry;
    let hub = HostConfig {
        mirrors: vec!["127.0.0.1:5000/path".to_owned(), "mirror.example".to_owned()],
        ..HostConfig::default()
    };
    let mirror = HostConfig {
        mirrors: Vec::new(),
        http: Some(true),
        insecure: Some(true),
        ca: vec!["/a.pem".into()],
        keypair: vec![KeyPair { key: "/key.pem".into(), cert: "/cert.pem".into() }],
        tls_directories: vec!["/certs".into()],
        max_concurrency: Some(2),
    };
    assert_eq!(hosts.host("docker.io"), hub);
    assert_eq!(hosts.host("127.0.0.1:5000"), mirror);
    assert_eq!(hosts.host("elsewhere"), HostConfig::default());
}

#[test]
fn unknown_keys_are_named() {
    let error = toml::from_str::<File>("[registry.\"a\"]\nmirror = []\n").unwrap_err().to_string();
    assert!(error.contains("unknown field `mirror`"), "{error}");
}
