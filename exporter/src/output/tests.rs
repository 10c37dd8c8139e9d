//! Outputs as they are written, and mistakes in them.

use super::*;
use crate::annotations::AnnotationLevel;
use crate::compression::{Compression, CompressionKind};
use crate::form::LayerForm;

fn image() -> ImageOutput {
    ImageOutput {
        names: Vec::new(),
        push: None,
        store: true,
        naming: Naming::default(),
        form: ImageForm::default(),
    }
}

fn archive(path: &str, media_types: MediaTypes) -> ArchiveOutput {
    ArchiveOutput {
        destination: Destination::Path(path.into()),
        packaging: Packaging::Tar,
        names: Vec::new(),
        form: ImageForm::of_types(media_types),
    }
}

#[test]
fn outputs_are_read() {
    let docker = archive("x.tar", MediaTypes::Docker);
    let attestations = AttestationForm { inline: false, ..AttestationForm::default() };
    let docker = ArchiveOutput { form: ImageForm { attestations, ..docker.form.clone() }, ..docker };
    let zstd = Compression::new(CompressionKind::Zstd, Some(9)).unwrap();
    let names = vec!["a:1".parse().unwrap(), "b".parse().unwrap()];
    let pushed = Some(PushOutput::default());
    let cases = [
        ("out", OutputSpec::Local(FilesOutput::new("out".into()))),
        ("-", OutputSpec::Tar(FilesOutput::new(Destination::Stdout))),
        ("type=local,dest=a b", OutputSpec::Local(FilesOutput::new("a b".into()))),
        ("type=tar,dest=-", OutputSpec::Tar(FilesOutput::new(Destination::Stdout))),
        (
            "type=local,dest=x,platform-split=false",
            OutputSpec::Local(FilesOutput { platform_split: Some(false), ..FilesOutput::new("x".into()) }),
        ),
        (
            "type=local,dest=x,mode=delete,attestation-prefix=a.,source-date-epoch=7",
            OutputSpec::Local(FilesOutput {
                others: OtherFiles::Deleted,
                attestation_prefix: "a.".to_owned(),
                epoch: Some(7),
                ..FilesOutput::new("x".into())
            }),
        ),
        ("type=cacheonly", OutputSpec::CacheOnly),
        ("type=image", OutputSpec::Image(image())),
        ("type=image,push=true", OutputSpec::Image(ImageOutput { push: pushed, ..image() })),
        (
            "type=registry,\"name=a:1,b\",oci-mediatypes=0",
            OutputSpec::Image(ImageOutput {
                names,
                push: pushed,
                store: false,
                form: ImageForm::of_types(MediaTypes::Docker),
                ..image()
            }),
        ),
        (
            "dest=x.tar,type=oci,compression=zstd,compression-level=9",
            OutputSpec::Oci(ArchiveOutput {
                form: ImageForm::compressed(zstd),
                ..archive("x.tar", MediaTypes::Oci)
            }),
        ),
        (
            "type=oci,tar=false,dest=x",
            OutputSpec::Oci(ArchiveOutput {
                packaging: Packaging::Directory,
                ..archive("x", MediaTypes::Oci)
            }),
        ),
        ("type=docker,dest=x.tar", OutputSpec::Docker(docker)),
    ];
    for (text, expected) in cases {
        assert_eq!(parse_output(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn forms_and_names_are_read() {
    let mut annotations = Annotations::default();
    annotations.set(AnnotationLevel::Manifest, None, "org.Example", "x");
    let arm = Some("linux/arm64".parse().unwrap());
    annotations.set(AnnotationLevel::ManifestDescriptor, arm, "a.b", "y=z");
    let forced = LayerForm { force: true, ..LayerForm::default() };
    let cases = [
        (
            "type=image,push=1,push-by-digest=true,registry.insecure=true,store=0,name-canonical=,unpack=true,\
             dangling-name-prefix=none,danging-name-empty-only=true,rewrite-timestamp=true,source-date-epoch=,\
             prefer-nondist-layers=true,oci-artifact=false,attestation-inline=false,compatibility-version=20",
            OutputSpec::Image(ImageOutput {
                names: Vec::new(),
                push: Some(PushOutput { by_digest: true, insecure: true }),
                store: false,
                naming: Naming {
                    dangling_prefix: Some("none".parse().unwrap()),
                    dangling_empty_only: true,
                    canonical: true,
                },
                form: ImageForm {
                    rewrite_timestamp: true,
                    keep_foreign: true,
                    attestations: AttestationForm {
                        manifest: Some(AttestationManifestForm::Image),
                        inline: false,
                    },
                    ..ImageForm::default()
                },
            }),
        ),
        (
            "type=image,annotation.org.Example=x,annotation-manifest-descriptor[linux/arm64].a.b=y=z,\
             oci-mediatypes=false,force-compression=true",
            OutputSpec::Image(ImageOutput {
                form: ImageForm { layers: forced, annotations, ..ImageForm::default() },
                ..image()
            }),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(parse_output(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn mistakes_are_named() {
    let cases = [
        ("type=ocl,dest=x", "unknown output type `ocl` (did you mean oci?)"),
        ("type=whatever", "unknown output type `whatever`"),
        ("dest=x", "invalid output `dest=x`: a `type` is required, as in `type=oci,dest=image.tar`"),
        ("type=oci,x", "invalid output `type=oci,x`: `x` should have the form `key=value`"),
        ("type=oci,dets=x", "unknown key `dets` for output type `oci` (did you mean dest?)"),
        ("type=local,name=x,dest=x", "unknown key `name` for output type `local`"),
        ("type=oci", "output type `oci` needs a destination, as in `type=oci,dest=image.tar`"),
        ("type=local,dest=-", "output type `local` makes a directory, which cannot go to standard output"),
        ("type=image,annotation-layer.a=b", "unknown annotation type \"layer\""),
        (
            "type=image,annotation[linux/x/y/z].a=b",
            "invalid platform of annotation `annotation[linux/x/y/z].a`",
        ),
        (
            "type=image,compression=lzma",
            "invalid value `lzma` for `compression` of output type `image`: it should be `uncompressed`, `gzip`, `zstd` or `estargz`",
        ),
        (
            "type=image,compression-level=11",
            "compression level 11 is out of range for gzip: it should be between 0 and 9",
        ),
        (
            "type=image,push=yes",
            "invalid value `yes` for `push` of output type `image`: it should be `true` or `false`",
        ),
        (
            "type=image,source-date-epoch=now",
            "invalid value `now` for `source-date-epoch` of output type `image`: it should be seconds since 1970",
        ),
        (
            "type=image,compatibility-version=15",
            "invalid value `15` for `compatibility-version` of output type `image`: it should be `10`, `20` or `30`",
        ),
        (
            "type=local,dest=x,mode=move",
            "invalid value `move` for `mode` of output type `local`: it should be `copy` or `delete`",
        ),
        ("type=tar,dest=x,mode=copy", "unknown key `mode` for output type `tar`"),
        ("type=image,\"name=a", "invalid output `type=image,\"name=a`: a double quote is not closed"),
        ("type=image,name=A", "invalid image name in output type `image`"),
    ];
    for (text, message) in cases {
        assert_eq!(parse_output(text).unwrap_err().to_string(), message, "{text}");
    }
}
