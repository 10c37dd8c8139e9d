//! Flags of docker and buildah for which there is nothing to do here, or nothing that rbuild could do. What each comes to
//! is told: nothing where it asks for what is so anyway, a warning where the build goes on without it, and an error where
//! it asks for more safety than there would be.

use clap::{ArgAction, Args};

use super::switches::GoBool;
use crate::notices::{NO_POLICIES, Notices};

/// The flags.
#[derive(Debug, Default, Args)]
pub(crate) struct AcceptedArguments {
    #[arg(long, hide = true)]
    builder: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        action = ArgAction::Set, value_parser = GoBool)]
    compress: Option<bool>,
    #[arg(long, hide = true)]
    isolation: Option<String>,
    #[arg(long, hide = true, value_delimiter = ',')]
    security_opt: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        action = ArgAction::Set, value_parser = GoBool)]
    rm: Option<bool>,
    // What it asks for is so anyway, as there are no containers that could be left.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        action = ArgAction::Set, value_parser = GoBool)]
    force_rm: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        action = ArgAction::Set, value_parser = GoBool)]
    disable_content_trust: Option<bool>,
    #[arg(long, hide = true)]
    policy: Vec<String>,
    #[arg(long, hide = true)]
    source_policy_file: Option<String>,
    /// What `--call` was called once.
    #[arg(long, hide = true)]
    pub(crate) print: Option<String>,
}

impl AcceptedArguments {
    /// What is to be told of the flags that were given.
    pub(crate) fn tell(&self, notices: &mut Notices) {
        if let Some(builder) = self.builder.as_deref().filter(|name| !matches!(*name, "" | "default")) {
            notices.warn(format!("`--builder {builder}` has no effect: this machine builds"));
        }
        if self.print.is_some() {
            notices.warn("`--print` is deprecated: write `--call`");
        }
        if self.compress == Some(true) {
            notices.warn("`--compress` has no effect: the context is read in place");
        }
        if self.rm == Some(false) {
            notices.warn("`--rm=false` has no effect: there are no containers that could be kept");
        }
        if self.disable_content_trust == Some(false) {
            notices.refuse(
                "`--disable-content-trust=false`: signatures of images are not verified; name the digests of base \
                 images, or write a lock file with `--lock`",
            );
        }
        if let Some(isolation) = &self.isolation {
            tell_isolation(isolation, notices);
        }
        for option in &self.security_opt {
            tell_security_option(option, notices);
        }
        if self.policy.iter().any(|text| !disables_policies(text)) {
            notices.refuse(format!("`--policy`: {NO_POLICIES}"));
        }
        if self.source_policy_file.is_some() {
            notices.refuse(format!("`--source-policy-file`: {NO_POLICIES}"));
        }
    }

    /// Whether the policy that lies beside the Dockerfile is not to count.
    pub(crate) fn are_policies_disabled(&self) -> bool {
        self.policy.iter().any(|text| disables_policies(text))
    }
}

/// Whether a value of `--policy` asks for nothing but that there be none.
fn disables_policies(text: &str) -> bool {
    text.split(',').all(|field| match field.split_once('=') {
        None => field == "disabled",
        Some((key, value)) => key == "disabled" && frontend::go_bool(value) == Some(true),
    })
}

fn tell_isolation(isolation: &str, notices: &mut Notices) {
    match isolation {
        "" | "default" => {}
        // buildah's. What it asks for is a build on a machine like this.
        "oci" | "rootless" | "chroot" => notices.warn(format!(
            "`--isolation {isolation}` has no effect: steps are isolated by namespaces, as root or not"
        )),
        other => notices.refuse(format!("`--isolation {other}`: steps are isolated by namespaces alone")),
    }
}

/// Docker's client passes these over with a warning. What would loosen the bounds of a step may go so; what would narrow
/// them may not.
fn tell_security_option(option: &str, notices: &mut Notices) {
    let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
    match (name, value) {
        ("label", "disable") | ("no-new-privileges", "false") => {}
        ("seccomp" | "apparmor" | "systempaths", "unconfined") | ("unmask", _) => notices.warn(format!(
            "`--security-opt {option}` has no effect: `RUN --security=insecure` with `--allow security.insecure` lets \
             a step do everything"
        )),
        _ => notices.refuse(format!("`--security-opt {option}` is not supported")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::build;
    use super::*;

    #[test]
    fn what_each_comes_to() {
        let nothing = ["", ""];
        let rows: &[(&str, [&str; 2])] = &[
            ("--builder=default", nothing),
            ("--builder=", nothing),
            ("--builder=other", ["`--builder other` has no effect: this machine builds", ""]),
            ("--compress", ["`--compress` has no effect: the context is read in place", ""]),
            ("--compress=false", nothing),
            ("--print=outline", ["`--print` is deprecated: write `--call`", ""]),
            ("--rm", nothing),
            ("--rm=false", ["`--rm=false` has no effect: there are no containers that could be kept", ""]),
            ("--force-rm", nothing),
            ("--force-rm=false", nothing),
            ("--disable-content-trust", nothing),
            ("--disable-content-trust=false", ["", "signatures of images are not verified"]),
            ("--isolation=default", nothing),
            ("--isolation=chroot", ["`--isolation chroot` has no effect", ""]),
            ("--isolation=hyperv", ["", "`--isolation hyperv`: steps are isolated by namespaces alone"]),
            ("--security-opt=label=disable", nothing),
            ("--security-opt=label:disable", nothing),
            ("--security-opt=seccomp=unconfined", ["`RUN --security=insecure`", ""]),
            (
                "--security-opt=apparmor=unconfined",
                ["`--security-opt apparmor=unconfined` has no effect", ""],
            ),
            ("--security-opt=seccomp=p.json", ["", "`--security-opt seccomp=p.json` is not supported"]),
            ("--security-opt=no-new-privileges", ["", "`--security-opt no-new-privileges` is not supported"]),
            ("--security-opt=label=type:x", ["", "`--security-opt label=type:x` is not supported"]),
            ("--policy=disabled", nothing),
            ("--policy=disabled=true", nothing),
            ("--policy=reset,filename=x.rego", ["", "`--policy`: source policies are not supported"]),
            ("--policy=disabled=false", ["", "`--policy`: source policies are not supported"]),
            ("--source-policy-file=x", ["", "`--source-policy-file`: source policies are not supported"]),
        ];
        for (flag, [warning, error]) in rows {
            let mut notices = Notices::default();
            build(&["rbuild", flag, "."]).accepted.tell(&mut notices);
            for (told, expected) in [(&notices.warnings, warning), (&notices.errors, error)] {
                let is_right = match told.as_slice() {
                    [] => expected.is_empty(),
                    [text] => !expected.is_empty() && text.contains(expected),
                    _ => false,
                };
                assert!(is_right, "{flag}: {notices:?}");
            }
        }
        let arguments = build(&["rbuild", "--security-opt", "seccomp=unconfined,label=disable", "."]);
        assert_eq!(arguments.accepted.security_opt, ["seccomp=unconfined", "label=disable"]);
        assert!(build(&["rbuild", "--policy=disabled", "."]).accepted.are_policies_disabled());
    }
}
