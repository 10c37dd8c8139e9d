//! The lint rules of BuildKit 0.32.

/// A lint rule. What each asks for is told by [`Rule::description`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the table below describes each")]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JsonArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

/// What is said of a rule, in the words of BuildKit, which other programs read.
struct Texts {
    rule: Rule,
    name: &'static str,
    /// The last part of the address of its page; empty where it has none.
    page: &'static str,
    /// What to write instead: our own words.
    advice: &'static str,
    description: &'static str,
}

/// In the order of the rules.
const TEXTS: [Texts; 22] = [
    Texts {
        rule: Rule::StageNameCasing,
        name: "StageNameCasing",
        page: "stage-name-casing",
        advice: "write the name in small letters",
        description: "Stage names should be lowercase",
    },
    Texts {
        rule: Rule::FromAsCasing,
        name: "FromAsCasing",
        page: "from-as-casing",
        advice: "write both keywords in capitals, or neither",
        description: "The 'as' keyword should match the case of the 'from' keyword",
    },
    Texts {
        rule: Rule::NoEmptyContinuation,
        name: "NoEmptyContinuation",
        page: "no-empty-continuation",
        advice: "remove the blank lines, or write `#` in them",
        description: "Empty continuation lines will become errors in a future release",
    },
    Texts {
        rule: Rule::ConsistentInstructionCasing,
        name: "ConsistentInstructionCasing",
        page: "consistent-instruction-casing",
        advice: "write all keywords in capitals, or none",
        description: "All commands within the Dockerfile should use the same casing (either upper or lower)",
    },
    Texts {
        rule: Rule::DuplicateStageName,
        name: "DuplicateStageName",
        page: "duplicate-stage-name",
        advice: "give the stage a name of its own",
        description: "Stage names should be unique",
    },
    Texts {
        rule: Rule::ReservedStageName,
        name: "ReservedStageName",
        page: "reserved-stage-name",
        advice: "give the stage another name",
        description: "Reserved words should not be used as stage names",
    },
    Texts {
        rule: Rule::JsonArgsRecommended,
        name: "JSONArgsRecommended",
        page: "json-args-recommended",
        advice: "write a list such as `[\"program\", \"argument\"]`, or a SHELL instruction above if a shell is wanted",
        description: "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS \
                      signals",
    },
    Texts {
        rule: Rule::MaintainerDeprecated,
        name: "MaintainerDeprecated",
        page: "maintainer-deprecated",
        advice: "write a label such as `LABEL org.opencontainers.image.authors=\"name\"`",
        description: "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    },
    Texts {
        rule: Rule::UndefinedArgInFrom,
        name: "UndefinedArgInFrom",
        page: "undefined-arg-in-from",
        advice: "declare it with ARG before the first FROM",
        description: "FROM command must use declared ARGs",
    },
    Texts {
        rule: Rule::WorkdirRelativePath,
        name: "WorkdirRelativePath",
        page: "workdir-relative-path",
        advice: "write an absolute path",
        description: "Relative workdir without an absolute workdir declared within the build can have unexpected \
                      results if the base image changes",
    },
    Texts {
        rule: Rule::UndefinedVar,
        name: "UndefinedVar",
        page: "undefined-var",
        advice: "define it above with ARG or ENV; a `$` that is meant as such is written `\\$`",
        description: "Variables should be defined before their use",
    },
    Texts {
        rule: Rule::MultipleInstructionsDisallowed,
        name: "MultipleInstructionsDisallowed",
        page: "multiple-instructions-disallowed",
        advice: "remove it: a later one takes its place",
        description: "Multiple instructions of the same type should not be used in the same stage",
    },
    Texts {
        rule: Rule::LegacyKeyValueFormat,
        name: "LegacyKeyValueFormat",
        page: "legacy-key-value-format",
        advice: "write `name=value`, with quotes where the value has blanks",
        description: "Legacy key/value format with whitespace separator should not be used",
    },
    Texts {
        rule: Rule::InvalidBaseImagePlatform,
        name: "InvalidBaseImagePlatform",
        page: "",
        advice: "take an image for that platform, or ask for the one that is there with `--platform`",
        description: "Base image platform does not match expected target platform",
    },
    Texts {
        rule: Rule::RedundantTargetPlatform,
        name: "RedundantTargetPlatform",
        page: "redundant-target-platform",
        advice: "leave `--platform` out",
        description: "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default \
                      behavior",
    },
    Texts {
        rule: Rule::SecretsUsedInArgOrEnv,
        name: "SecretsUsedInArgOrEnv",
        page: "secrets-used-in-arg-or-env",
        advice: "hand it to the RUN that needs it with `--mount=type=secret`: arguments and variables stay in the image",
        description: "Sensitive data should not be used in the ARG or ENV commands",
    },
    Texts {
        rule: Rule::InvalidDefaultArgInFrom,
        name: "InvalidDefaultArgInFrom",
        page: "invalid-default-arg-in-from",
        advice: "give the ARG a default with which the name of the image is complete",
        description: "Default value for global ARG results in an empty or invalid base image name",
    },
    Texts {
        rule: Rule::FromPlatformFlagConstDisallowed,
        name: "FromPlatformFlagConstDisallowed",
        page: "from-platform-flag-const-disallowed",
        advice: "write `--platform=$BUILDPLATFORM`, or leave it out",
        description: "FROM --platform flag should not use a constant value",
    },
    Texts {
        rule: Rule::CopyIgnoredFile,
        name: "CopyIgnoredFile",
        page: "copy-ignored-file",
        advice: "take the file out of .dockerignore, or the source out of the instruction",
        description: "Attempting to Copy file that is excluded by .dockerignore",
    },
    Texts {
        rule: Rule::InvalidDefinitionDescription,
        name: "InvalidDefinitionDescription",
        page: "invalid-definition-description",
        advice: "begin the comment with the name, or write a line `#` below it",
        description: "Comment for build stage or argument should follow the format: `# <arg/stage name> \
                      <description>`. If this is not intended to be a description comment, add an empty line or \
                      comment between the instruction and the comment.",
    },
    Texts {
        rule: Rule::ExposeProtoCasing,
        name: "ExposeProtoCasing",
        page: "expose-proto-casing",
        advice: "write the protocol in small letters",
        description: "Protocol in EXPOSE instruction should be lowercase",
    },
    Texts {
        rule: Rule::ExposeInvalidFormat,
        name: "ExposeInvalidFormat",
        page: "expose-invalid-format",
        advice: "write the port of the container alone",
        description: "IP address and host-port mapping should not be used in EXPOSE instruction. This will \
                      become an error in a future release",
    },
];

impl Rule {
    /// All rules.
    pub fn all() -> impl Iterator<Item = Self> {
        TEXTS.iter().map(|texts| texts.rule)
    }

    /// Its name, which skip lists use.
    pub fn name(self) -> &'static str {
        self.texts().name
    }

    /// The page that explains it; one rule has none.
    pub fn url(self) -> Option<String> {
        let page = self.texts().page;
        (!page.is_empty()).then(|| format!("https://docs.docker.com/go/dockerfile/rule/{page}/"))
    }

    /// What it asks for.
    pub fn description(self) -> &'static str {
        self.texts().description
    }

    /// What to write instead of what breaks it, where nothing closer is known.
    pub fn advice(self) -> &'static str {
        self.texts().advice
    }

    /// Whether it is off unless it is asked for.
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }

    fn texts(self) -> &'static Texts {
        &TEXTS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_texts() {
        for (index, texts) in TEXTS.iter().enumerate() {
            assert_eq!(texts.rule as usize, index);
            assert_eq!(format!("{:?}", texts.rule).to_lowercase(), texts.name.to_lowercase());
            let page = texts.page.replace('-', "");
            assert!(page.is_empty() || page == texts.name.to_lowercase(), "{page}");
        }
    }
}
