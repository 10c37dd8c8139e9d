//! What is told before a build begins: flags, variables and files of docker's that mean something there and nothing here.

use crate::arguments::BuildArguments;
use crate::inputs::{self, Inputs};
use crate::report::Failure;
use crate::settings::Environment;
use crate::variables;

/// What whoever asks for a source policy is told.
pub(crate) const NO_POLICIES: &str = "source policies are not supported";

/// What is to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Notices {
    /// That something has no effect.
    pub(crate) warnings: Vec<String>,
    /// That something cannot be had.
    pub(crate) errors: Vec<String>,
}

impl Notices {
    /// Of all that concerns a build, so far as `inputs` are known. A build that cannot have what it asks for fails.
    pub(crate) fn of(arguments: &BuildArguments, inputs: Option<&Inputs>) -> Result<Self, Failure> {
        let mut notices = Self::default();
        arguments.accepted.tell(&mut notices);
        variables::tell(Environment::text, &mut notices);
        if inputs::heeds_policies(arguments)
            && let Some(path) =
                inputs.and_then(Inputs::definition).and_then(|definition| definition.path.as_deref())
            && let Some(policy) = inputs::policy_beside(path)
        {
            notices.refuse(inputs::policy_text(&policy));
        }
        let failure = Failure::all(notices.errors.drain(..).map(Failure::usage));
        failure.map_or(Ok(notices), Err)
    }

    pub(crate) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    pub(crate) fn refuse(&mut self, text: impl Into<String>) {
        self.errors.push(text.into());
    }

    /// The warnings as lines.
    pub(crate) fn text(&self) -> String {
        self.warnings.iter().flat_map(|warning| ["WARNING: ", warning, "\n"]).collect()
    }
}
